// Minimal filtering F(4x4, 3x3) (Winograd, 1980; Lavin & Gray, 2016): 4 x 4 outputs of a 3x3 convolution from
// 6 x 6 inputs by 36 products a pair of channels, where the sum itself takes 144. Inputs and weights are
// evaluated, rows and columns, at the points 0, +-5/8, +-3/2 and infinity; products summed over the channels
// are interpolated back. Of points in pairs these lose little (twice a plain sum's error; +-1 and +-2, the
// usual ones, four times), and all factors but the weights' are exact.
#pragma once

#include <utility>

#include "fused.h"

namespace vflow::VFLOW_TARGET {

constexpr int kTileInputs = 6, kTileOutputs = 4, kTilePoints = kTileInputs * kTileInputs;

struct WinogradPoints {
  static constexpr double a = 0.625, b = 1.5, aa = a * a, bb = b * b;
};

// Three weights in a line, to[i stride].
VFLOW_INLINE void weights_at_points(double g0, double g1, double g2, double* to, int64_t stride) {
  using P = WinogradPoints;
  constexpr double of_a = 1 / (2 * P::aa * (P::aa - P::bb)), of_b = 1 / (2 * P::bb * (P::bb - P::aa));
  const double even_a = g0 + P::aa * g2, odd_a = P::a * g1, even_b = g0 + P::bb * g2, odd_b = P::b * g1;
  to[0] = 1 / (P::aa * P::bb) * g0;
  to[stride] = of_a * (even_a + odd_a);
  to[2 * stride] = of_a * (even_a - odd_a);
  to[3 * stride] = of_b * (even_b + odd_b);
  to[4 * stride] = of_b * (even_b - odd_b);
  to[5 * stride] = g2;
}

// Four outputs in a line, of the products at the six points.
VFLOW_INLINE void outputs_of_points(const FloatVector (&m)[kTileInputs], FloatVector (&y)[kTileOutputs]) {
  using V = FloatVector;
  using P = WinogradPoints;
  const V even_a = m[1] + m[2], odd_a = m[1] - m[2], even_b = m[3] + m[4], odd_b = m[3] - m[4];
  y[0] = m[0] + even_a + even_b;
  y[1] = fused(splat<V>(P::b), odd_b, splat<V>(P::a) * odd_a);
  y[2] = fused(splat<V>(P::bb), even_b, splat<V>(P::aa) * even_a);
  y[3] = fused(splat<V>(P::bb * P::b), odd_b, fused(splat<V>(P::aa * P::a), odd_a, m[5]));
}

// Six inputs in a line at one of the points.
template <int point>
VFLOW_INLINE FloatVector input_at_point(const FloatVector (&d)[kTileInputs]) {
  using V = FloatVector;
  using P = WinogradPoints;
  constexpr bool of_a = point < 3;
  constexpr double at = (of_a ? P::a : P::b) * (point % 2 ? 1 : -1), others = of_a ? P::bb : P::aa;
  if constexpr (point == 0 || point == 5) {
    constexpr int first = point == 5;
    const V inner = fused(splat<V>(-(P::aa + P::bb)), d[first + 2], d[first + 4]);
    return fused(splat<V>(P::aa * P::bb), d[first], inner);
  } else {
    const V even = fused(splat<V>(-others), d[2], d[4]), odd = fused(splat<V>(-others), d[1], d[3]);
    return fused(splat<V>(at), odd, even);
  }
}

// The transpose of outputs_of_points, for the weights' gradient: gradients of four outputs in a line, at one
// of the points.
template <int point>
VFLOW_INLINE FloatVector gradient_at_point(const FloatVector (&g)[kTileOutputs]) {
  using V = FloatVector;
  using P = WinogradPoints;
  [[maybe_unused]] constexpr double at = (point < 3 ? P::a : P::b) * (point % 2 ? 1 : -1);
  if constexpr (point == 0) return g[0];
  if constexpr (point == 5) return g[3];
  return fused(splat<V>(at), fused(splat<V>(at * at), g[3], g[1]), fused(splat<V>(at * at), g[2], g[0]));
}

// The same at points `first + i`, i in the sequence. What several share, the compiler computes once.
template <int first, int... i>
VFLOW_INLINE void inputs_at(const FloatVector (&d)[kTileInputs], FloatVector* at,
                            std::integer_sequence<int, i...>) {
  ((at[i] = input_at_point<first + i>(d)), ...);
}
template <int first, int... i>
VFLOW_INLINE void gradients_at(const FloatVector (&g)[kTileOutputs], FloatVector* at,
                               std::integer_sequence<int, i...>) {
  ((at[i] = gradient_at_point<first + i>(g)), ...);
}

// The transpose of weights_at_points: products at the six points, from[i stride], to a gradient of three,
// to[i to_stride].
VFLOW_INLINE void weights_of_points(const double* from, int64_t stride, double* to, int64_t to_stride) {
  using P = WinogradPoints;
  constexpr double of_a = 1 / (2 * P::aa * (P::aa - P::bb)), of_b = 1 / (2 * P::bb * (P::bb - P::aa));
  const double even_a = of_a * (from[stride] + from[2 * stride]),
               odd_a = of_a * (from[stride] - from[2 * stride]),
               even_b = of_b * (from[3 * stride] + from[4 * stride]),
               odd_b = of_b * (from[3 * stride] - from[4 * stride]);
  to[0] = 1 / (P::aa * P::bb) * from[0] + even_a + even_b;
  to[to_stride] = P::a * odd_a + P::b * odd_b;
  to[2 * to_stride] = P::aa * even_a + P::bb * even_b + from[5 * stride];
}

}  // namespace vflow::VFLOW_TARGET
