// Exact elementwise functions of doubles, and exact triangular maps of whole numbers, for one instruction
// set. Compiled without contraction: one rounding after another, the same in vectors of every width.
#include "exact_maps_kernel.h"

#include "parts.h"
#include "simd.h"

namespace vflow::VFLOW_TARGET {

constexpr double kMostSum = 0x1p50;

template <class Function>
static void apply_to(const double* x, double* y, int64_t count, const Function& function) {
  for (int64_t i = 0; i < count; i += kLanes<double>) {
    const int64_t filled = count - i < kLanes<double> ? count - i : kLanes<double>;
    store_some<double>(function(load_some(x + i, filled)), filled, y + i);
  }
}

static void apply(int function, const double* x, double* y, int64_t count) {
  using V = DoubleVector;
  if (function == VFLOW_EXP) apply_to(x, y, count, [](V v) { return exp(v); });
  if (function == VFLOW_LOG) apply_to(x, y, count, [](V v) { return log(v); });
  if (function == VFLOW_TANH) apply_to(x, y, count, [](V v) { return tanh(v); });
  if (function == VFLOW_SIGMOID) apply_to(x, y, count, [](V v) { return Sigmoids<V>(v).below; });
}

// With T the matrix less its diagonal of ones: x_j + round(sum_i x_i T_ij), i in order. Each x_j is changed
// when no other sum needs it any more. Whether all became numbers that doubles hold exactly, sums and all; a
// block that did not is left as it was.
static bool lift(int64_t* rows, const double* matrix, int64_t count, int64_t channels, bool upper,
                 bool inverse, double* room) {
  using V = DoubleVector;
  constexpr int64_t vectors = kLiftRows / kLanes<double>;
  const bool from_last = upper != inverse;
  const V most = splat<V>(kMostSum);
  for (int64_t start = 0; start < count; start += kLiftRows) {
    const int64_t filled = count - start < kLiftRows ? count - start : kLiftRows;
    int64_t* block = rows + start * channels;
    for (int64_t c = 0; c < channels; ++c)
      for (int64_t r = 0; r < kLiftRows; ++r)
        room[c * kLiftRows + r] = r < filled ? static_cast<double>(block[r * channels + c]) : 0;
    decltype(most > most) inside = most == most;
    for (int64_t step = 0; step < channels; ++step) {
      const int64_t j = from_last ? channels - 1 - step : step;
      V sums[vectors] = {};
      for (int64_t i = upper ? 0 : j + 1; i < (upper ? j : channels); ++i) {
        const double factor = matrix[i * channels + j];
        for (int64_t v = 0; v < vectors; ++v)
          sums[v] += load(room + i * kLiftRows + v * kLanes<double>) * factor;
      }
      for (int64_t v = 0; v < vectors; ++v) {
        double* to = room + j * kLiftRows + v * kLanes<double>;
        const V magic = splat<V>(Format<double>::magic), rounded = (sums[v] + magic) - magic;
        const V result = inverse ? load(to) - rounded : load(to) + rounded;
        inside = inside & (magnitude(result) <= most);  // NaN is not
        store(result, to);
      }
    }
    if (any(~inside)) return false;
    for (int64_t r = 0; r < filled; ++r)
      for (int64_t c = 0; c < channels; ++c)
        block[r * channels + c] = static_cast<int64_t>(room[c * kLiftRows + r]);
  }
  return true;
}

const ExactMapsKernels& exact_maps_kernels() {
  static const ExactMapsKernels kernels = {apply, lift};
  return kernels;
}

}  // namespace vflow::VFLOW_TARGET
