// The mixture-of-logistics transform of whole numbers, cell by cell, for one instruction set (VFLOW_TARGET).
//
// Real numbers are whole numbers over 2^grid. A cell is 2^cell_bits of them, and the transform of its two
// ends, in the same units, says where it lands: [lower, lower + width). Twice the cell's number is added,
// so that no cell vanishes where the transform is flat. Both directions ask the same function for the ends of
// a cell, and every one of its results is one rounding after another, in an order of its own (this file is
// compiled without contraction), whatever the width of a vector and whoever is in the other lanes.
//
// Elements go as many at a time as a vector has floats: what is a function of their parameters alone is
// computed in floats, and the transform in two vectors of doubles.
#include "exact_mixture_kernel.h"

#include "../common/mixlogistic.h"
#include "columns.h"
#include "exact_logistic.h"

namespace vflow::VFLOW_TARGET {

using F = FloatVector;
using V = DoubleVector;
using Whole = Int64Vector;
constexpr int64_t kWide = kLanes<double>, kAtOnce = kLanes<float>;
constexpr double kMostValue = 0x1p50;  // in units of the grid; sums with it stay exact
constexpr int64_t kMostCell = int64_t{1} << 36;
constexpr int kMostSteps = 160, kSecantSteps = 8;
constexpr float kRoughResidual = 1e-2f;  // of log odds: what is left after a step from there is near 1e-5
constexpr double kMostExponent = 1000, kLog2E = 1.4426950408889634;
constexpr double kFaint = 0x1p-660;  // below which a sum goes to its logarithm another way

// Whole numbers below 2^51 as double and back; to the nearest, ties to even.
static VFLOW_INLINE V as_double(Whole n) {
  return bits_as<V>(n + Format<double>::magic_bits) - splat<V>(Format<double>::magic);
}
static VFLOW_INLINE Whole nearest(V v) {
  return bits_as<Whole>(v + splat<V>(Format<double>::magic)) - Format<double>::magic_bits;
}
static VFLOW_INLINE Whole whole_floor(V v) {
  const Whole n = nearest(v);
  return as_double(n) > v ? n - 1 : n;
}
static VFLOW_INLINE Whole clamp_whole(Whole low, Whole n, Whole high) {
  n = n < low ? low : n;
  return n > high ? high : n;
}

// One half of a vector of floats as doubles, and back.
typedef float HalfFloats __attribute__((vector_size(VFLOW_VECTOR_BYTES / 2)));
static VFLOW_INLINE V half_of(F numbers, int half) {
  HalfFloats part;
  memcpy(&part, reinterpret_cast<const char*>(&numbers) + half * sizeof(part), sizeof(part));
  return __builtin_convertvector(part, V);
}
static VFLOW_INLINE F joined(V low, V high) {
  const HalfFloats halves[2] = {__builtin_convertvector(low, HalfFloats),
                                __builtin_convertvector(high, HalfFloats)};
  F numbers;
  memcpy(&numbers, halves, sizeof(numbers));
  return numbers;
}

// A component, for the doubles: its share of the sum is weight / (1 + 2^(rate x + offset)).
struct Logistic {
  V weight, rate, offset;
};

// What elements' parameters come to. With the squash the weights sum to its span.
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
      weight[k] = exp_of_rounded(params.logit(k) - top);
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

// About where numbers y come from, in floats: which cell it is, `find` asks their ends. Newton's steps as in
// mixlogistic_inverse.h, inside the same bracket, until the next one would be a small part of a cell. A cell
// lands twice its number further than the transform says: `drift` times x.
template <bool squash>
VFLOW_INLINE F rough_source(F y_less_b, const Elements& elements, float drift) {
  constexpr int most_steps = 24;
  const F limit = splat<F>(1e30), half = splat<F>(0.5), one = splat<F>(1);
  const F target = clamp(-limit, y_less_b / elements.exp_a, limit);
  F log_odds = target, slope = splat<F>(drift) / elements.exp_a;
  if (squash) {
    const F least = splat<F>(Format<F>::epsilon), floor = splat<F>(kSquashFloor);
    const F odds = exp_minus(magnitude(target)), near = one / (one + odds), far = odds * near;
    const F above_floor = larger(least, near - floor), below_roof = larger(least, far - floor);
    log_odds = log(above_floor / below_roof);
    log_odds = target < F{} ? -log_odds : log_odds;
    slope = slope * splat<F>(kSquashSpan) * near * far / (above_floor * below_roof);
  }
  F low = limit, high = -limit, sum{}, total{}, rates{};
  for (int64_t k = 0; k < elements.components; ++k) {
    const F quantile = clamp(-limit, elements.mean(k) + log_odds / elements.inv_scale[k], limit);
    const F rate = elements.weight[k] * elements.inv_scale[k];
    low = smaller(low, quantile);
    high = larger(high, quantile);
    sum += rate * quantile;
    rates += rate;
    total += elements.weight[k];
  }
  F x = clamp(low, sum / rates, high);
  for (int step = 0; step < most_steps; ++step) {
    F below{}, above{}, density{};
    for (int64_t k = 0; k < elements.components; ++k) {
      const Sigmoids<F> sigmoids((x - elements.mean(k)) * elements.inv_scale[k]);
      const F share = elements.weight[k] * sigmoids.below;
      below += share;
      above += elements.weight[k] * sigmoids.above;
      density += share * sigmoids.above * elements.inv_scale[k];
    }
    const F residual = log(below / above) + slope * x - log_odds;
    const F newton = x - residual * (below * above / (density * total));
    low = residual < F{} ? x : low;
    high = residual > F{} ? x : high;
    const auto inside = (newton >= low) & (newton <= high);
    x = inside ? newton : half * (low + high);
    if (!any(magnitude(residual) > splat<F>(kRoughResidual))) break;
  }
  return x;
}

// Calls function(elements, half, first, filled) for both vectors of doubles of every kAtOnce elements.
template <class S, bool squash, class Begin, class Function>
VFLOW_INLINE void for_elements(const ExactMixtureArrays& arrays, int64_t first, int64_t count, void* scratch,
                               const Begin& begin, const Function& function) {
  Elements elements(arrays.components, scratch);
  for (int64_t i = first; i < first + count; i += kAtOnce) {
    const int64_t filled = first + count - i < kAtOnce ? first + count - i : kAtOnce;
    elements.load_rows(static_cast<const S*>(arrays.params) + i * (2 + 3 * arrays.components), filled);
    elements.prepare<squash>();
    Whole input[2], cell[2], lower, upper;
    for (int64_t lane = 0; lane < kAtOnce; ++lane)
      input[lane / kWide][lane % kWide] = arrays.input[i + (lane < filled ? lane : 0)];
    begin(elements, input, cell);
    for (int half = 0; half < 2 && half * kWide < filled; ++half) {
      function(Mixture<squash>(elements, half, arrays.grid, arrays.cell_bits), input[half], cell[half], lower,
               upper);
      for (int64_t lane = 0; lane < kWide && half * kWide + lane < filled; ++lane) {
        const int64_t to = i + half * kWide + lane;
        if (arrays.cell) arrays.cell[to] = cell[half][lane];
        arrays.lower[to] = lower[lane];
        arrays.width[to] = upper[lane] - lower[lane];
      }
    }
  }
}

template <class S, bool squash>
void cells_run(const ExactMixtureArrays& arrays, int64_t first, int64_t count, void* scratch) {
  for_elements<S, squash>(
      arrays, first, count, scratch, [](const Elements&, const Whole(&)[2], Whole(&)[2]) {},
      [&](const Mixture<squash>& mixture, Whole x, Whole& cell, Whole& lower, Whole& upper) {
        cell = x >> arrays.cell_bits;
        mixture.ends_of(cell, lower, upper);
      });
}

// The cell whose image y is in, from a guess: secants, then bisection, inside a bracket of all cells.
template <bool squash>
VFLOW_INLINE void find(const Mixture<squash>& mixture, Whole y, Whole& cell, Whole& lower, Whole& upper) {
  Whole least = Whole{} - kMostCell, most = Whole{} + kMostCell;
  mixture.ends_of(cell, lower, upper);
  for (int step = 0; step < kMostSteps; ++step) {
    const Whole below = y < lower, above = y >= upper;
    if (!any(below | above)) break;
    most = below ? cell - 1 : most;
    least = above ? cell + 1 : least;
    const V ahead = as_double(y - lower) / as_double(upper - lower);
    const V limit = splat<V>(static_cast<double>(kMostCell));
    Whole next = cell + whole_floor(clamp(-limit, ahead, limit));
    if (step >= kSecantSteps && step % 2) next = (least + most) >> 1;
    next = (below | above) ? clamp_whole(least, next, most) : cell;
    const Whole moved = next - cell;
    cell = next;
    if (any((moved < -1) | (moved > 1))) {
      mixture.ends_of(cell, lower, upper);
    } else {  // of a neighbour one end is known
      const Whole other = mixture.end(moved > 0 ? cell + 1 : cell), known = moved > 0 ? upper : lower;
      lower = moved < 0 ? other : moved > 0 ? known : lower;
      upper = moved < 0 ? known : moved > 0 ? other : upper;
    }
  }
  const Whole lost = (y < lower) | (y >= upper);
  upper = lost ? lower : upper;  // no cell: a width that the coder refuses
}

template <class S, bool squash>
void find_run(const ExactMixtureArrays& arrays, int64_t first, int64_t count, void* scratch) {
  const V inv_unit = splat<V>(1 / static_cast<double>(int64_t{1} << arrays.grid));
  const V cells = splat<V>(static_cast<double>(int64_t{1} << (arrays.grid - arrays.cell_bits)));
  const float drift = 2 / static_cast<float>(int64_t{1} << arrays.cell_bits);
  for_elements<S, squash>(
      arrays, first, count, scratch,
      [&](const Elements& elements, const Whole(&y)[2], Whole(&cell)[2]) {
        const F x = rough_source<squash>(
            joined(as_double(y[0]) * inv_unit - elements.b[0], as_double(y[1]) * inv_unit - elements.b[1]),
            elements, drift);
        const V most = splat<V>(static_cast<double>(kMostCell));
        for (int half = 0; half < 2; ++half) {
          const V found = half_of(x, half) * cells;
          cell[half] = whole_floor(clamp(-most, found == found ? found : V{}, most));
        }
      },
      [&](const Mixture<squash>& mixture, Whole y, Whole& cell, Whole& lower, Whole& upper) {
        find(mixture, y, cell, lower, upper);
      });
}

static int64_t scratch_bytes(int64_t components) {
  return Elements::vectors(components) * VFLOW_VECTOR_BYTES;
}

const ExactMixtureKernels& exact_mixture_kernels() {
  static const ExactMixtureKernels kernels = {
      scratch_bytes,
      {{cells_run<float, false>, cells_run<float, true>},
       {cells_run<double, false>, cells_run<double, true>}},
      {{find_run<float, false>, find_run<float, true>}, {find_run<double, false>, find_run<double, true>}},
  };
  return kernels;
}

}  // namespace vflow::VFLOW_TARGET
