// The mixture-of-logistics transform of whole numbers, cell by cell, for one instruction set (VFLOW_TARGET).
//
// Real numbers are whole numbers over 2^grid. A cell is 2^cell_bits of them, and the transform of its two
// ends, in the same units, says where it lands: [lower, lower + width). Twice the cell's number is added,
// so that no cell vanishes where the transform is flat. Both directions ask the same function for the ends of
// a cell (exact_mixture_map.h).
#include "exact_mixture_kernel.h"

#include "exact_mixture_map.h"

namespace vflow::VFLOW_TARGET {

constexpr int64_t kMostCell = int64_t{1} << 36;
constexpr int kMostSteps = 160, kSecantSteps = 8;
constexpr float kRoughResidual = 1e-2f;  // of log odds: what is left after a step from there is near 1e-5

static VFLOW_INLINE Whole whole_floor(V v) {
  const Whole n = nearest(v);
  return as_double(n) > v ? n - 1 : n;
}
static VFLOW_INLINE Whole clamp_whole(Whole low, Whole n, Whole high) {
  n = n < low ? low : n;
  return n > high ? high : n;
}
static VFLOW_INLINE F joined(V low, V high) {
  const HalfFloats halves[2] = {__builtin_convertvector(low, HalfFloats),
                                __builtin_convertvector(high, HalfFloats)};
  F numbers;
  memcpy(&numbers, halves, sizeof(numbers));
  return numbers;
}

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
