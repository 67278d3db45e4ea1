// The mixture-of-logistics transform of whole numbers, cell by cell, for one instruction set (VFLOW_TARGET).
//
// Real numbers are whole numbers over 2^grid. A cell is 2^cell_bits of them, and the transform of its two
// ends, in the same units, says where it lands: [lower, lower + width). Twice the cell's number is added,
// so that no cell vanishes where the transform is flat. Both directions ask the same function for the ends of
// a cell, and every one of its results is one rounding after another, in an order of its own (this file is
// compiled without contraction), whatever the width of a vector and whoever is in the other lanes.
#include "exact_mixture_kernel.h"

#include "../common/mixlogistic.h"
#include "../common/mixlogistic_inverse.h"
#include "simd.h"

namespace vflow::VFLOW_TARGET {

using V = DoubleVector;
using Whole = Int64Vector;
constexpr int64_t kWide = kLanes<double>;
constexpr double kMostValue = 0x1p50;  // in units of the grid; sums with it stay exact
constexpr int64_t kMostCell = int64_t{1} << 36;
constexpr int kMostSteps = 160, kSecantSteps = 8;
constexpr float kRoughResidual = 1e-3f;  // of log odds: what is left after a step from there is below 1e-6

static int64_t scratch_bytes(int64_t components) {
  return (2 + 3 * components + 2 * components) * VFLOW_VECTOR_BYTES;
}

constexpr int64_t kGuesses = kLanes<float>;  // at a time

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

template <bool squash>
struct Mixture {
  Params<V> params;
  V *weight, *inv_scale;
  V top, total{}, exp_a;
  double unit, cell_size;  // of the grid: 2^grid, and of a cell in real numbers

  VFLOW_INLINE Mixture(const Params<V>& params, V* room, int grid, int cell_bits)
      : params(params),
        weight(room),
        inv_scale(room + params.components),
        top(params.top()),
        exp_a(exp_bounded(tanh(params.raw_a()))),
        unit(static_cast<double>(int64_t{1} << grid)),
        cell_size(static_cast<double>(int64_t{1} << cell_bits) / unit) {
    for (int64_t k = 0; k < params.components; ++k) {
      weight[k] = exp_of_rounded(params.logit(k) - top);
      inv_scale[k] = exp_minus(params.log_scale(k));
      total += weight[k];
    }
  }

  VFLOW_INLINE V value(V x) const {
    Sums<V> sums;
    sums.total = total;
    for (int64_t k = 0; k < params.components; ++k) {
      const Sigmoids<V> sigmoids((x - params.mean(k)) * inv_scale[k]);
      sums.below += weight[k] * sigmoids.below;
      sums.above += weight[k] * sigmoids.above;
    }
    if (!squash) {
      const auto faint = !(smaller(sums.below, sums.above) >= splat<V>(Format<V>::small));
      if (__builtin_expect(any(faint), 0))
        sum_in_log_space<false>(sums, faint, LogSpace<V>(params, x), params, x, top);
    }
    return Odds<squash, V>(sums).logit(sums) * exp_a + params.b();
  }

  // Where the lower end of a cell lands.
  VFLOW_INLINE Whole end(Whole cell) const {
    const V real = value(as_double(cell) * cell_size) * unit;
    const Whole landed = nearest(clamp(splat<V>(-kMostValue), real, splat<V>(kMostValue)));
    return real == real ? landed + 2 * cell : -cell;  // NaN has no width
  }
};

// The parameters of as many elements as C, double or float, has lanes.
template <class C, class S>
VFLOW_INLINE Params<Vector<C>> load_columns_of(const S* params, int64_t components, int64_t filled,
                                               void* columns) {
  const int64_t width = 2 + 3 * components;
  C* to = static_cast<C*>(columns);
  for (int64_t lane = 0; lane < kLanes<C>; ++lane) {
    const S* row = params + (lane < filled ? lane : 0) * width;
    for (int64_t j = 0; j < width; ++j) to[j * kLanes<C> + lane] = static_cast<C>(row[j]);
  }
  return {static_cast<Vector<C>*>(columns), components};
}

// x with F(x) about sigmoid(log_odds): Newton's steps as in mixlogistic_inverse.h, inside the same bracket,
// until the next one would be a small part of a cell. Where floats cannot tell, the bracket's middle has to
// do.
VFLOW_INLINE FloatVector rough_quantile(FloatVector log_odds, const Params<FloatVector>& params,
                                        FloatVector* weight, FloatVector* inv_scale) {
  using F = FloatVector;
  constexpr int most_steps = 24;
  const F top = params.top(), limit = splat<F>(1e30), half = splat<F>(0.5);
  F low = limit, high = -limit, x{}, total{};
  for (int64_t k = 0; k < params.components; ++k) {
    weight[k] = exp_of_rounded(params.logit(k) - top);
    inv_scale[k] = exp_minus(params.log_scale(k));
    const F quantile = clamp(-limit, params.mean(k) + log_odds / inv_scale[k], limit);
    low = smaller(low, quantile);
    high = larger(high, quantile);
    x += weight[k] * quantile;
    total += weight[k];
  }
  x = clamp(low, x / total, high);
  for (int step = 0; step < most_steps; ++step) {
    F below{}, above{}, density{};
    for (int64_t k = 0; k < params.components; ++k) {
      const Sigmoids<F> sigmoids((x - params.mean(k)) * inv_scale[k]);
      const F share = weight[k] * sigmoids.below;
      below += share;
      above += weight[k] * sigmoids.above;
      density += share * sigmoids.above * inv_scale[k];
    }
    const F residual = log(below / above) - log_odds;
    const F newton = x - residual * (below * above / (density * total));
    low = residual < F{} ? x : low;
    high = residual > F{} ? x : high;
    const auto inside = (newton >= low) & (newton <= high);
    x = inside ? newton : half * (low + high);
    if (!any(magnitude(residual) > splat<F>(kRoughResidual))) break;
  }
  return x;
}

// About where the numbers come from, in floats: which cell it is, `find_run` asks their ends.
template <class S, bool squash>
VFLOW_INLINE void guess_cells(const ExactMixtureArrays& arrays, int64_t first, int64_t filled,
                              void* scratch) {
  FloatVector* columns = static_cast<FloatVector*>(scratch);
  const int64_t width = 2 + 3 * arrays.components;
  const S* rows = static_cast<const S*>(arrays.params) + first * width;
  float numbers[kGuesses];
  for (int64_t i = 0; i < kGuesses; i += kWide) {
    V head[2], y;
    for (int64_t lane = 0; lane < kWide; ++lane) {
      const int64_t from = i + lane < filled ? i + lane : 0;
      head[0][lane] = static_cast<double>(rows[from * width]);
      head[1][lane] = static_cast<double>(rows[from * width + 1]);
      y[lane] = static_cast<double>(arrays.input[first + from]);
    }
    const V unit = splat<V>(static_cast<double>(int64_t{1} << arrays.grid)), limit = splat<V>(0x1p100);
    const V log_odds = log_odds_of<squash>(y / unit, Params<V>{head, 0});
    for (int64_t lane = 0; lane < kWide; ++lane)
      numbers[i + lane] = static_cast<float>(clamp(-limit, log_odds, limit)[lane]);
  }
  const auto params = load_columns_of<float>(rows, arrays.components, filled, columns);
  const FloatVector x =
      rough_quantile(load(numbers), params, columns + width, columns + width + arrays.components);
  store(x, numbers);
  const double cells = static_cast<double>(int64_t{1} << (arrays.grid - arrays.cell_bits));
  const double most = static_cast<double>(kMostCell);
  for (int64_t i = 0; i < filled; ++i) {
    const double cell = static_cast<double>(numbers[i]) * cells;
    if (cell > -most && cell < most) {
      const int64_t whole = static_cast<int64_t>(cell);
      arrays.cell[first + i] = static_cast<double>(whole) > cell ? whole - 1 : whole;
    } else {
      arrays.cell[first + i] = cell >= most ? kMostCell : cell <= -most ? -kMostCell : 0;
    }
  }
}

template <class S, bool squash, class Function>
VFLOW_INLINE void for_vectors(const ExactMixtureArrays& arrays, int64_t first, int64_t count, void* scratch,
                              const Function& function) {
  V* columns = static_cast<V*>(scratch);
  const int64_t width = 2 + 3 * arrays.components;
  for (int64_t i = first; i < first + count; i += kWide) {
    const int64_t filled = first + count - i < kWide ? first + count - i : kWide;
    const auto params = load_columns_of<double>(static_cast<const S*>(arrays.params) + i * width,
                                                arrays.components, filled, columns);
    const Mixture<squash> mixture(params, columns + width, arrays.grid, arrays.cell_bits);
    Whole input, cell, lower, upper;
    for (int64_t lane = 0; lane < kWide; ++lane) {
      input[lane] = arrays.input[i + (lane < filled ? lane : 0)];
      cell[lane] = arrays.cell ? arrays.cell[i + (lane < filled ? lane : 0)] : 0;
    }
    function(mixture, input, cell, lower, upper);
    for (int64_t lane = 0; lane < filled; ++lane) {
      if (arrays.cell) arrays.cell[i + lane] = cell[lane];
      arrays.lower[i + lane] = lower[lane];
      arrays.width[i + lane] = upper[lane] - lower[lane];
    }
  }
}

template <class S, bool squash>
void cells_run(const ExactMixtureArrays& arrays, int64_t first, int64_t count, void* scratch) {
  for_vectors<S, squash>(
      arrays, first, count, scratch,
      [&](const Mixture<squash>& mixture, Whole x, Whole& cell, Whole& lower, Whole& upper) {
        cell = x >> arrays.cell_bits;
        lower = mixture.end(cell);
        upper = mixture.end(cell + 1);
      });
}

template <class S, bool squash>
void find_run(const ExactMixtureArrays& arrays, int64_t first, int64_t count, void* scratch) {
  for (int64_t i = 0; i < count; i += kGuesses)
    guess_cells<S, squash>(arrays, first + i, count - i < kGuesses ? count - i : kGuesses, scratch);
  for_vectors<S, squash>(
      arrays, first, count, scratch,
      [&](const Mixture<squash>& mixture, Whole y, Whole& cell, Whole& lower, Whole& upper) {
        Whole least = Whole{} - kMostCell, most = Whole{} + kMostCell;
        cell = clamp_whole(least, cell, most);
        lower = mixture.end(cell);
        upper = mixture.end(cell + 1);
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
            lower = mixture.end(cell);
            upper = mixture.end(cell + 1);
          } else {  // of a neighbour one end is known
            const Whole other = mixture.end(moved > 0 ? cell + 1 : cell), known = moved > 0 ? upper : lower;
            lower = moved < 0 ? other : moved > 0 ? known : lower;
            upper = moved < 0 ? known : moved > 0 ? other : upper;
          }
        }
        const Whole lost = (y < lower) | (y >= upper);
        upper = lost ? lower : upper;  // no cell: a width that the coder refuses
      });
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
