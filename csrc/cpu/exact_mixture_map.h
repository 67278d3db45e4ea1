// The mixture-of-logistics transform as the coder takes it: what an element's parameters come to, and where
// the ends of its cells land.
//
// Elements go as many at a time as a vector has floats: what is a function of their parameters alone is
// computed in floats, and the transform in two vectors of doubles. Every result is one rounding after
// another, in an order of its own, whatever the width of a vector and whoever is in the other lanes; for
// files that are compiled without contraction.
#pragma once

#include "../common/mixlogistic.h"
#include "columns.h"
#include "exact_logistic.h"

namespace vflow::VFLOW_TARGET {

using F = FloatVector;
using V = DoubleVector;
using Whole = Int64Vector;
constexpr int64_t kWide = kLanes<double>, kAtOnce = kLanes<float>;
constexpr double kMostValue = 0x1p50;  // in units of the grid; sums with it stay exact
constexpr double kMostExponent = 1000;
constexpr double kFaint = 0x1p-660;  // below which a sum goes to its logarithm another way

// Whole numbers below 2^51 as double and back; to the nearest, ties to even.
VFLOW_INLINE V as_double(Whole n) {
  return bits_as<V>(n + Format<double>::magic_bits) - splat<V>(Format<double>::magic);
}
VFLOW_INLINE Whole nearest(V v) {
  return bits_as<Whole>(v + splat<V>(Format<double>::magic)) - Format<double>::magic_bits;
}

// One half of a vector of floats as doubles.
typedef float HalfFloats __attribute__((vector_size(VFLOW_VECTOR_BYTES / 2)));
VFLOW_INLINE V half_of(F numbers, int half) {
  HalfFloats part;
  memcpy(&part, reinterpret_cast<const char*>(&numbers) + half * sizeof(part), sizeof(part));
  return __builtin_convertvector(part, V);
}

// A component, for the doubles: its share of the sum is weight / (1 + 2^(rate x + offset)).
struct Logistic {
  V weight, rate, offset;
};

// What elements' parameters come to. The weights of `logistics` sum to 1, with the squash to its span.
struct Elements {
  int64_t components;
  F *columns, *weight, *inv_scale;  // the parameters, element by element in the lanes; and in floats
  V* means[2];
  Logistic* logistics[2];
  F exp_a;
  V b[2];

  static int64_t vectors(int64_t components) { return 2 + 3 * components + 2 * components + 8 * components; }
  VFLOW_INLINE Elements(int64_t components, void* room) : components(components) {
    columns = static_cast<F*>(room);
    weight = columns + 2 + 3 * components;
    inv_scale = weight + components;
    means[0] = reinterpret_cast<V*>(inv_scale + components);
    means[1] = means[0] + components;
    logistics[0] = reinterpret_cast<Logistic*>(means[1] + components);
    logistics[1] = logistics[0] + components;
  }
  VFLOW_INLINE F mean(int64_t k) const { return columns[2 + components + k]; }

  // Rows of parameters; lanes to spare repeat the first.
  template <class S>
  VFLOW_INLINE void load_rows(const S* rows, int64_t filled) {
    const int64_t width = 2 + 3 * components;
    if constexpr (sizeof(S) == sizeof(float)) {
      if (filled == kAtOnce) {
        load_columns(rows, width, columns);
        load_means();
        return;
      }
    }
    float* to = reinterpret_cast<float*>(columns);
    for (int64_t lane = 0; lane < kAtOnce; ++lane) {
      const S* row = rows + (lane < filled ? lane : 0) * width;
      for (int64_t j = 0; j < width; ++j) to[j * kAtOnce + lane] = static_cast<float>(row[j]);
      b[lane / kWide][lane % kWide] = static_cast<double>(row[1]);
      for (int64_t k = 0; k < components; ++k)
        means[lane / kWide][k][lane % kWide] = static_cast<double>(row[2 + components + k]);
    }
  }
  VFLOW_INLINE void load_means() {
    for (int half = 0; half < 2; ++half) {
      b[half] = half_of(columns[1], half);
      for (int64_t k = 0; k < components; ++k) means[half][k] = half_of(mean(k), half);
    }
  }

  template <bool squash>
  VFLOW_INLINE void prepare() {
    const Params<F> params{columns, components};
    const F top = params.top();
    F total{};
    for (int64_t k = 0; k < components; ++k) {
      weight[k] = exp_bounded(params.logit(k) - top);
      inv_scale[k] = exp_minus(params.log_scale(k));
      total += weight[k];
    }
    const F share = splat<F>(squash ? kSquashSpan : 1.0) / total;
    exp_a = exp_bounded(tanh(params.raw_a()));
    for (int64_t k = 0; k < components; ++k) {
      for (int half = 0; half < 2; ++half) {
        const V rate = half_of(inv_scale[k], half) * splat<V>(kLog2E);
        const V part = half_of(weight[k], half) * half_of(share, half);
        logistics[half][k] = {part, -rate, means[half][k] * rate};
      }
    }
  }
};

// The transform of the elements in one half.
template <bool squash>
struct Mixture {
  const Logistic* logistics;
  int64_t components;
  V exp_a, b;
  double unit, cell_size;  // of the grid: 2^grid, and of a cell in real numbers

  VFLOW_INLINE Mixture(const Elements& elements, int half, int grid, int cell_bits)
      : logistics(elements.logistics[half]),
        components(elements.components),
        exp_a(half_of(elements.exp_a, half)),
        b(elements.b[half]),
        unit(static_cast<double>(int64_t{1} << grid)),
        cell_size(static_cast<double>(int64_t{1} << cell_bits) / unit) {}

  static VFLOW_INLINE V exponent(const Logistic& logistic, V x) {
    const V most = splat<V>(kMostExponent);
    return clamp(-most, fused(x, logistic.rate, logistic.offset), most);
  }

  // At `count` places side by side, so that none waits for another.
  template <int count>
  VFLOW_INLINE void values(const V (&x)[count], V (&y)[count]) const {
    const V one = splat<V>(1);
    V below[count]{}, above[count]{};
    for (int64_t k = 0; k < components; ++k)
      for (int i = 0; i < count; ++i) {
        const V odds = power_of_two(exponent(logistics[k], x[i])), near = one / (one + odds);
        below[i] = fused(logistics[k].weight, near, below[i]);
        if (!squash) above[i] = fused(logistics[k].weight, odds * near, above[i]);
      }
    for (int i = 0; i < count; ++i) {
      V log_odds;
      if (squash) {
        const V u = splat<V>(kSquashFloor) + below[i];
        log_odds = fused_log(u / (one - u));
      } else {
        log_odds = fused_log(below[i] / above[i]);
        const auto faint = !(smaller(below[i], above[i]) >= splat<V>(kFaint));
        if (__builtin_expect(any(faint), 0)) log_odds = faint ? far_log_odds(x[i]) : log_odds;
      }
      y[i] = fused(log_odds, exp_a, b);
    }
  }

  // log(below / above) where one of them is next to nothing: each relative to its largest term, in powers of
  // two, of which an exponent is one without a bound.
  VFLOW_NOINLINE V far_log_odds(V x) const {
    const V one = splat<V>(1), limit = splat<V>(kMostValue);
    V tops[2] = {splat<V>(-2 * kMostValue), splat<V>(-2 * kMostValue)}, sums[2]{};
    for (int pass = 0; pass < 2; ++pass)
      for (int64_t k = 0; k < components; ++k) {
        const V t = clamp(-limit, fused(x, logistics[k].rate, logistics[k].offset), limit);
        const V near = one / (one + power_of_two(larger(splat<V>(-kMostExponent), -magnitude(t))));
        const V weight = fused_log(logistics[k].weight) * splat<V>(kLog2E);
        const V terms[2] = {weight - larger(V{}, t), weight + smaller(V{}, t)};
        for (int i = 0; i < 2; ++i) {
          if (pass == 1)
            sums[i] =
                fused(power_of_two(larger(splat<V>(-kMostExponent), terms[i] - tops[i])), near, sums[i]);
          else
            tops[i] = larger(tops[i], terms[i]);
        }
      }
    return fused(tops[0] - tops[1], splat<V>(1 / kLog2E), fused_log(sums[0]) - fused_log(sums[1]));
  }

  // Where the lower ends of cells land.
  template <int count>
  VFLOW_INLINE void ends(const Whole (&cells)[count], Whole (&landed)[count]) const {
    V x[count], y[count];
    for (int i = 0; i < count; ++i) x[i] = as_double(cells[i]) * cell_size;
    values(x, y);
    for (int i = 0; i < count; ++i) {
      const V real = y[i] * unit;
      const Whole place = nearest(clamp(splat<V>(-kMostValue), real, splat<V>(kMostValue)));
      landed[i] = real == real ? place + 2 * cells[i] : -cells[i];  // NaN has no width
    }
  }
  VFLOW_INLINE void ends_of(Whole cell, Whole& lower, Whole& upper) const {
    Whole landed[2];
    ends({cell, cell + 1}, landed);
    lower = landed[0];
    upper = landed[1];
  }
  VFLOW_INLINE Whole end(Whole cell) const {
    Whole landed[1];
    ends({cell}, landed);
    return landed[0];
  }
};

}  // namespace vflow::VFLOW_TARGET
