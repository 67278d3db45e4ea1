// The gated_residual_norm kernels for one instruction set (VFLOW_TARGET): as many rows at a time as a vector
// has lanes. They stay in the first levels of cache from their sums over the squares of their differences
// to their outputs, and no row's mean or deviation is waited for.
#include "gated_residual_norm_kernel.h"

#include "parts.h"
#include "simd.h"

namespace vflow::VFLOW_TARGET {

constexpr double kEps = 1e-5;

// What a run remembers of each row of a group.
enum Kind { kResidual, kGate, kSlope, kKinds };

// Those, and four rows for the weights and their gradients.
static int64_t scratch_bytes(int64_t features) {
  const int64_t row = (features + VFLOW_VECTOR_BYTES) * 8;  // and what the vectors have to spare
  return (kKinds * kLanes<float> + 4) * ((row + 63) / 64 * 64);
}

// A group of rows on its way through the passes below. Row is RowVectors of whole or ragged rows.
template <class S, class Row>
struct Group {
  using V = Vector<S>;
  const Row& row;
  V *kinds, *weight, *bias, *grad_weight, *grad_bias;
  int64_t rows = 0;                    // of the group, at most kLanes
  V sums[kLanes<S>], more[kLanes<S>];  // of each row, in parts
  Number<S> mean[kLanes<S>], inv_deviation[kLanes<S>];

  Group(const Row& row, void* scratch, const void* weights, const void* biases) : row(row) {
    kinds = static_cast<V*>(scratch);
    weight = kinds + kKinds * kLanes<S> * row.count;
    bias = weight + row.count, grad_weight = bias + row.count, grad_bias = grad_weight + row.count;
    for (int64_t j = 0; j < row.count; ++j) {
      weight[j] = real(weights, j);
      if (biases) bias[j] = real(biases, j);
      grad_weight[j] = grad_bias[j] = V{};
    }
  }
  V* of(Kind kind, int64_t r) const { return kinds + (kind * kLanes<S> + r) * row.count; }

  // x + a sigmoid(b), and for the gradient how it depends on a and on b.
  template <bool gradient>
  VFLOW_NOINLINE void gate(const S* x, const S* ab) {
    const int64_t width = row.width;
    for (int64_t r = 0; r < kLanes<S>; ++r) sums[r] = V{};
    for (int64_t r = 0; r < rows; ++r, x += width, ab += 2 * width) {
      prefetch_row(x, width);
      prefetch_row(ab, 2 * width);
      V *residuals = of(kResidual, r), *gates = of(kGate, r), *slopes = of(kSlope, r);
      V sum{};
      for (int64_t j = 0; j < row.count; ++j) {
        const V a = row.load(ab, j);
        const Sigmoids<V> sigmoids(row.load(ab + width, j));
        const V residual = row.load(x, j) + a * sigmoids.below;
        if constexpr (gradient) {
          gates[j] = sigmoids.below;
          slopes[j] = a * sigmoids.below * sigmoids.above;
        }
        residuals[j] = residual;
        sum += row.once(j, residual);
      }
      sums[r] = sum;
    }
    find_moments();
  }

  // From the sums of the residuals. The mean is taken twice: the second time of the differences from the
  // first, whose own rounding would otherwise be all there is of a row of nearly equal numbers.
  VFLOW_INLINE void find_moments() {
    const V features = splat<V>(static_cast<double>(row.width));
    const V means = sum_rows(sums) / features;
    store(means, mean);
    for (int64_t r = 0; r < kLanes<S>; ++r) sums[r] = more[r] = V{};
    for (int64_t r = 0; r < rows; ++r) {
      const V* residuals = of(kResidual, r);
      V sum{}, squared{};
      for (int64_t j = 0; j < row.count; ++j) {
        const V difference = row.once(j, residuals[j] - mean[r]);
        sum += difference;
        squared += difference * difference;
      }
      sums[r] = sum;
      more[r] = squared;
    }
    const V rest = sum_rows(sums) / features;
    store(means + rest, mean);
    const V variance = larger(V{}, sum_rows(more) / features - rest * rest);
    store(variance + static_cast<Number<S>>(kEps), inv_deviation);
    // An overflown variance is NaN (inf - inf), or its row would be all zeros, as if nothing had happened.
    Number<S> overflown[kLanes<S>];
    store(variance - variance, overflown);
    for (int64_t r = 0; r < kLanes<S>; ++r)
      inv_deviation[r] = 1 / square_root(inv_deviation[r]) + overflown[r];
  }

  template <bool streaming>
  VFLOW_NOINLINE void normalise(S* y) const {
    for (int64_t r = 0; r < rows; ++r, y += row.width) {
      const V* residuals = of(kResidual, r);
      for (int64_t j = 0; j < row.count; ++j)
        row.template write<streaming>((residuals[j] - mean[r]) * inv_deviation[r] * weight[j] + bias[j], j,
                                      y);
    }
  }

  // Normalises in place; adds to the gradients of weight and bias; sums over each row what its gradient
  // needs.
  VFLOW_NOINLINE void sum_gradients(const S* grad) {
    for (int64_t r = 0; r < kLanes<S>; ++r) sums[r] = more[r] = V{};
    for (int64_t r = 0; r < rows; ++r, grad += row.width) {
      prefetch_row(grad, row.width);
      V* normed = of(kResidual, r);
      V total{}, along{};
      for (int64_t j = 0; j < row.count; ++j) {
        const V g = row.load(grad, j), number = (normed[j] - mean[r]) * inv_deviation[r];
        const V scaled = row.once(j, g * weight[j]);
        normed[j] = number;
        grad_weight[j] += g * number;
        grad_bias[j] += g;
        total += scaled;
        along += scaled * number;
      }
      sums[r] = total;
      more[r] = along;
    }
  }

  template <bool streaming>
  VFLOW_NOINLINE void write_gradients(const S* grad, S* grad_x, S* grad_ab) {
    const V share = splat<V>(1) / splat<V>(static_cast<double>(row.width));
    Number<S> totals[kLanes<S>], alongs[kLanes<S>];
    store(sum_rows(sums) * share, totals);
    store(sum_rows(more) * share, alongs);
    const int64_t width = row.width;
    for (int64_t r = 0; r < rows; ++r, grad += width, grad_x += width, grad_ab += 2 * width) {
      const V *normed = of(kResidual, r), *gates = of(kGate, r), *slopes = of(kSlope, r);
      const V total = V{} + totals[r], along = V{} + alongs[r], factor = V{} + inv_deviation[r];
      for (int64_t j = 0; j < row.count; ++j) {
        const V gradient = (row.load(grad, j) * weight[j] - total - normed[j] * along) * factor;
        row.template write<streaming>(gradient, j, grad_x);
        row.template write<streaming>(gradient * gates[j], j, grad_ab);
        row.template write<streaming>(gradient * slopes[j], j, grad_ab + width);
      }
    }
  }

 private:
  V real(const void* numbers, int64_t j) const {
    return load_some(static_cast<const Number<S>*>(numbers) + row.first(j), row.filled());
  }
  // Asks for the row of the next group.
  static VFLOW_INLINE void prefetch_row(const S* now, int64_t width) {
    prefetch(now + kLanes<S> * width, width * static_cast<int64_t>(sizeof(S)));
  }
  static VFLOW_INLINE float square_root(float number) { return __builtin_sqrtf(number); }
  static VFLOW_INLINE double square_root(double number) { return __builtin_sqrt(number); }
};

template <class S>
void forward_run(const GatedResidualNormArrays& arrays, int64_t first, int64_t rows, void* scratch, void*) {
  const int64_t width = arrays.features;
  const S* x = static_cast<const S*>(arrays.x) + first * width;
  const S* ab = static_cast<const S*>(arrays.ab) + first * 2 * width;
  S* y = static_cast<S*>(arrays.output) + first * width;
  for_row_kind(y, width, arrays.stream, [&](const auto& row, auto streaming) {
    Group<S, std::decay_t<decltype(row)>> group(row, scratch, arrays.weight, arrays.bias);
    for (int64_t i = 0; i < rows; i += kLanes<S>) {
      group.rows = rows - i < kLanes<S> ? rows - i : kLanes<S>;
      group.template gate<false>(x + i * width, ab + i * 2 * width);
      group.template normalise<decltype(streaming)::value>(y + i * width);
    }
  });
}

template <class S>
void backward_run(const GatedResidualNormArrays& arrays, int64_t first, int64_t rows, void* scratch,
                  void* sums) {
  const int64_t width = arrays.features;
  const S* x = static_cast<const S*>(arrays.x) + first * width;
  const S* ab = static_cast<const S*>(arrays.ab) + first * 2 * width;
  const S* grad = static_cast<const S*>(arrays.grad) + first * width;
  S* grad_x = static_cast<S*>(arrays.output) + first * width;
  S* grad_ab = static_cast<S*>(arrays.grad_ab) + first * 2 * width;
  const bool stream = arrays.stream && is_aligned(grad_ab);
  for_row_kind(grad_x, width, stream, [&](const auto& row, auto streaming) {
    Group<S, std::decay_t<decltype(row)>> group(row, scratch, arrays.weight, nullptr);
    for (int64_t i = 0; i < rows; i += kLanes<S>) {
      group.rows = rows - i < kLanes<S> ? rows - i : kLanes<S>;
      group.template gate<true>(x + i * width, ab + i * 2 * width);
      group.sum_gradients(grad + i * width);
      group.template write_gradients<decltype(streaming)::value>(grad + i * width, grad_x + i * width,
                                                                 grad_ab + i * 2 * width);
    }
    auto* to = static_cast<Number<S>*>(sums);
    for (int64_t j = 0; j < row.count; ++j) {
      store_some<Number<S>>(group.grad_weight[j], row.filled(), to + row.first(j));
      store_some<Number<S>>(group.grad_bias[j], row.filled(), to + width + row.first(j));
    }
  });
}

const GatedResidualNormKernels& gated_residual_norm_kernels() {
  static const GatedResidualNormKernels kernels = {
      scratch_bytes,
      {forward_run<float>, forward_run<double>, forward_run<BFloat16>},
      {backward_run<float>, backward_run<double>, backward_run<BFloat16>},
  };
  return kernels;
}

}  // namespace vflow::VFLOW_TARGET
