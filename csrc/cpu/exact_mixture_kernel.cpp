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

static int64_t scratch_bytes(int64_t components) {
  return (2 + 3 * components + 2 * components) * VFLOW_VECTOR_BYTES;
}

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

  // The cell that y lies in.
  VFLOW_INLINE Whole guess(Whole y) const {
    const V real = as_double(y) / unit;
    const V x = mixture_quantile(log_odds_of<squash>(real, params), params, weight, inv_scale);
    const V most = splat<V>(static_cast<double>(kMostCell));
    return whole_floor(clamp(-most, x / cell_size, most));
  }
};

template <class S>
VFLOW_INLINE Params<V> load_columns_of(const S* params, int64_t components, int64_t filled, V* columns) {
  const int64_t width = 2 + 3 * components;
  double* to = reinterpret_cast<double*>(columns);
  for (int64_t lane = 0; lane < kWide; ++lane) {
    const S* row = params + (lane < filled ? lane : 0) * width;
    for (int64_t j = 0; j < width; ++j) to[j * kWide + lane] = static_cast<double>(row[j]);
  }
  return {columns, components};
}

template <class S, bool squash, class Function>
VFLOW_INLINE void for_vectors(const ExactMixtureArrays& arrays, int64_t first, int64_t count, void* scratch,
                              const Function& function) {
  V* columns = static_cast<V*>(scratch);
  const int64_t width = 2 + 3 * arrays.components;
  for (int64_t i = first; i < first + count; i += kWide) {
    const int64_t filled = first + count - i < kWide ? first + count - i : kWide;
    const auto params =
        load_columns_of(static_cast<const S*>(arrays.params) + i * width, arrays.components, filled, columns);
    const Mixture<squash> mixture(params, columns + width, arrays.grid, arrays.cell_bits);
    Whole input;
    for (int64_t lane = 0; lane < kWide; ++lane) input[lane] = arrays.input[i + (lane < filled ? lane : 0)];
    Whole cell, lower, upper;
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
  for_vectors<S, squash>(
      arrays, first, count, scratch,
      [&](const Mixture<squash>& mixture, Whole y, Whole& cell, Whole& lower, Whole& upper) {
        Whole least = Whole{} - kMostCell, most = Whole{} + kMostCell;
        cell = clamp_whole(least, mixture.guess(y), most);
        for (int step = 0; step < kMostSteps; ++step) {
          lower = mixture.end(cell);
          upper = mixture.end(cell + 1);
          const Whole below = y < lower, above = y >= upper;
          if (!any(below | above)) break;
          most = below ? cell - 1 : most;
          least = above ? cell + 1 : least;
          const V ahead = as_double(y - lower) / as_double(upper - lower);
          const V limit = splat<V>(static_cast<double>(kMostCell));
          Whole next = cell + whole_floor(clamp(-limit, ahead, limit));
          if (step >= kSecantSteps && step % 2) next = (least + most) >> 1;
          cell = (below | above) ? clamp_whole(least, next, most) : cell;
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
