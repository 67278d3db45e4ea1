// Mathematics of the inverse of the mixture-of-logistics transform, for one element or a SIMD vector.
//
// Newton's method on logit F(x) - log_odds, which is linear in x for one component and in the tails, inside
// a bracket that starts at the least and the greatest of the components' own quantiles. A step that leaves
// the bracket, or that follows one which did not halve the residual, is replaced by bisection. What is not
// settled after kNewtonIterations is bisected by the count of floats in the bracket, so that it ends within
// as many more as the format has bits.
#pragma once

#include "mixlogistic.h"

namespace vflow::VFLOW_TARGET {

constexpr int kNewtonIterations = 64;

// The float with as many floats between it and `low` as between it and `high`.
template <class V>
VFLOW_INLINE V middle_float(V low, V high) {
  using Bits = typename Format<V>::Bits;
  const auto flip = [](Bits bits) {  // negative floats count backwards; its own inverse
    return bits < Bits{} ? bits ^ (Bits{} + Format<V>::all_but_sign) : bits;
  };
  const Bits a = flip(bits_as<Bits>(low)), b = flip(bits_as<Bits>(high));
  return bits_as<V>(flip((a >> 1) + (b >> 1) + (a & b & (Bits{} + 1))));
}

// The logit of the CDF value that y asks for. With the squash a value outside (0, 1) is clipped inside.
template <bool squash, class V, class P>
VFLOW_INLINE V log_odds_of(V y, const P& params) {
  using F = Format<V>;
  const V limit = splat<V>(F::largest / 8);
  V target = (y - params.b()) * exp_bounded(-tanh(params.raw_a()));
  target = clamp(-limit, target, limit);
  if (!squash) return target;
  // What is left of the smaller one without its floor has what error there is, enlarged.
  const V one = splat<V>(1), odds = exp_minus(magnitude(target)), near = one / (one + odds),
          far = odds / (one + odds);
  const V inv_span = splat<V>(1 / kSquashSpan), floor = splat<V>(kSquashFloor);
  const V least = splat<V>(F::epsilon), most = splat<V>(1 - F::epsilon);
  const V log_odds =
      log(clamp(least, (near - floor) * inv_span, most) / clamp(least, (far - floor) * inv_span, most));
  return target < V{} ? -log_odds : log_odds;
}

// x with F(x) = sigmoid(log_odds), as near as its format can tell. `weight` and `inv_scale` are room for K,
// pointers or what can be indexed like one.
template <class V, class P, class Room>
VFLOW_INLINE V mixture_quantile(V log_odds, const P& params, Room weight, Room inv_scale) {
  using F = Format<V>;
  using Index = typename P::Index;
  const auto components = params.components;
  const V eps = splat<V>(F::epsilon), limit = splat<V>(F::largest / 8), half = splat<V>(0.5);
  const V top = params.top(), widest = splat<V>(F::exp_most - 8);
  V low = splat<V>(F::largest), high = -low, x{}, total{};
  for (Index k = 0; k < components; ++k) {
    const V log_scale = smaller(widest, params.log_scale(k));
    weight[k] = exp_of_rounded(params.logit(k) - top);
    inv_scale[k] = exp_minus(log_scale);
    V quantile = params.mean(k) + exp_bounded(log_scale) * log_odds;
    quantile = clamp(-limit, quantile, limit);
    low = smaller(low, quantile);
    high = larger(high, quantile);
    x += weight[k] * quantile;
    total += weight[k];
  }
  x = clamp(low, x / total, high);

  V last = splat<V>(F::largest);
  auto active = log_odds == log_odds;  // a NaN stays where it is
  constexpr int last_iteration = kNewtonIterations + 8 * int(sizeof(typename F::Scalar)) + 2;
  for (int iteration = 0; any(active) && iteration < last_iteration; ++iteration) {
    Sums<V> sums;
    sums.total = total;
    for (Index k = 0; k < components; ++k) {
      const Sigmoids<V> sigmoids((x - params.mean(k)) * inv_scale[k]);
      const V below = weight[k] * sigmoids.below;
      sums.below += below;
      sums.above += weight[k] * sigmoids.above;
      sums.density += below * inv_scale[k] * sigmoids.above;
    }
    const auto faint = sums.template faint<false>();
    if (__builtin_expect(any(faint), 0))
      sum_in_log_space<false>(sums, faint, LogSpace<V>(params, x), params, x, top);
    const V at_x = log(sums.below / sums.above) + (sums.below_shift - sums.above_shift);
    const V residual = at_x - log_odds, distance = magnitude(residual);
    // residual / slope, the slope being F' / (F (1 - F)) with the shifts of the three
    const V inv_slope = sums.below * sums.above / (sums.density * total) *
                        exp(sums.below_shift + sums.above_shift - sums.density_shift);
    low = residual < V{} ? x : low;
    high = residual > V{} ? x : high;
    V step = middle_float(low, high);
    if (iteration < kNewtonIterations) {
      const V newton = x - residual * inv_slope;
      // A NaN (0 / 0 on a plateau) fails both comparisons and is bisected too.
      const auto good = (newton > low) & (newton < high) & (distance < half * last);
      step = good ? newton : half * low + half * high;
    }
    const auto close = distance <= eps * (splat<V>(8) + splat<V>(2) * magnitude(log_odds));
    const auto narrow = high - low <= splat<V>(2) * eps * larger(magnitude(low), magnitude(high));
    active = active & !(close | narrow | (step == x));
    x = active ? step : x;
    last = distance;
  }
  return x;
}

template <bool squash, class V, class P, class Room>
VFLOW_INLINE Transformed<V> mixlogistic_inverse(V y, const P& params, Room weight, Room inv_scale) {
  const V x = mixture_quantile(log_odds_of<squash>(y, params), params, weight, inv_scale);
  return {x, -mixlogistic<squash>(x, params).log_derivative};
}

}  // namespace vflow::VFLOW_TARGET
