// The concat_elu kernels for one instruction set (VFLOW_TARGET): a SIMD vector of channels at a time.
#include "concat_elu_kernel.h"

#include "dropout_factors.h"
#include "parts.h"
#include "simd.h"

namespace vflow::VFLOW_TARGET {

// What becomes of x and of -x; or what has come back to them.
template <class V>
struct Halves {
  V same, opposite;
};

template <class V>
VFLOW_INLINE Halves<V> halves_of(V x) {
  const V below = expm1_bounded(-magnitude(x));
  const auto positive = x > V{};
  return {positive ? x : below, positive ? below : -x};
}

template <class V>
VFLOW_INLINE V gradient_of(V x, Halves<V> grad) {
  // The derivative is 1 on the positive side of each half and exp(-|x|) on its negative one.
  const V slope = exp_minus(magnitude(x));
  return x > V{} ? grad.same - grad.opposite * slope : grad.same * slope - grad.opposite;
}

template <bool streaming, class S, class Row>
VFLOW_INLINE void forward_rows(const Row& row, const S* x, int64_t rows, S* y) {
  for (int64_t i = 0; i < rows; ++i, x += row.width, y += 2 * row.width)
    for (int64_t j = 0; j < row.count; ++j) {
      const auto halves = halves_of(row.load(x, j));
      row.template write<streaming>(halves.same, j, y);
      row.template write<streaming>(halves.opposite, j, y + row.width);
    }
}

template <bool streaming, class S, class Row>
VFLOW_INLINE void backward_rows(const Row& row, const S* grad, const S* x, int64_t rows, S* grad_x) {
  using V = Vector<S>;
  for (int64_t i = 0; i < rows; ++i, x += row.width, grad += 2 * row.width, grad_x += row.width)
    for (int64_t j = 0; j < row.count; ++j) {
      const Halves<V> halves{row.load(grad, j), row.load(grad + row.width, j)};
      row.template write<streaming>(gradient_of(row.load(x, j), halves), j, grad_x);
    }
}

// With dropout, rows go in pairs: their four halves are the four rows of dropout's counters. `first` is the
// number of the first row among all.
template <bool streaming, class S, class Row>
VFLOW_INLINE void dropped_forward_rows(const Row& row, const DropoutRule& dropout, int64_t first, const S* x,
                                       int64_t rows, S* y) {
  using V = Vector<S>;
  for (int64_t i = 0; i < rows; i += 2, x += 2 * row.width, y += 4 * row.width)
    for (int64_t j = 0; j < row.count; ++j) {
      V factors[4];
      dropout_factors(dropout, (first + i) / 2 * row.width + row.first(j), factors);
      for (int64_t k = 0; k < 2 && i + k < rows; ++k) {
        const Halves<V> halves = halves_of(row.load(x + k * row.width, j));
        S* to = y + 2 * k * row.width;
        row.template write<streaming>(halves.same * factors[2 * k], j, to);
        row.template write<streaming>(halves.opposite * factors[2 * k + 1], j, to + row.width);
      }
    }
}

template <bool streaming, class S, class Row>
VFLOW_INLINE void dropped_backward_rows(const Row& row, const DropoutRule& dropout, int64_t first,
                                        const S* grad, const S* x, int64_t rows, S* grad_x) {
  using V = Vector<S>;
  for (int64_t i = 0; i < rows; i += 2, x += 2 * row.width, grad += 4 * row.width, grad_x += 2 * row.width)
    for (int64_t j = 0; j < row.count; ++j) {
      V factors[4];
      dropout_factors(dropout, (first + i) / 2 * row.width + row.first(j), factors);
      for (int64_t k = 0; k < 2 && i + k < rows; ++k) {
        const S* from = grad + 2 * k * row.width;
        const Halves<V> halves{row.load(from, j) * factors[2 * k],
                               row.load(from + row.width, j) * factors[2 * k + 1]};
        const V numbers = row.load(x + k * row.width, j);
        row.template write<streaming>(gradient_of(numbers, halves), j, grad_x + k * row.width);
      }
    }
}

template <class S>
void forward_run(const ConcatEluArrays& arrays, int64_t first, int64_t rows) {
  const int64_t channels = arrays.channels;
  const S* x = static_cast<const S*>(arrays.x) + first * channels;
  S* y = static_cast<S*>(arrays.output) + first * 2 * channels;
  for_row_kind(y, channels, arrays.stream, [&](const auto& row, auto streaming) {
    constexpr bool stream = decltype(streaming)::value;
    if (arrays.dropout)
      dropped_forward_rows<stream>(row, *arrays.dropout, first, x, rows, y);
    else
      forward_rows<stream>(row, x, rows, y);
  });
}

template <class S>
void backward_run(const ConcatEluArrays& arrays, int64_t first, int64_t rows) {
  const int64_t channels = arrays.channels;
  const S* x = static_cast<const S*>(arrays.x) + first * channels;
  const S* grad = static_cast<const S*>(arrays.grad) + first * 2 * channels;
  S* grad_x = static_cast<S*>(arrays.output) + first * channels;
  for_row_kind(grad_x, channels, arrays.stream, [&](const auto& row, auto streaming) {
    constexpr bool stream = decltype(streaming)::value;
    if (arrays.dropout)
      dropped_backward_rows<stream>(row, *arrays.dropout, first, grad, x, rows, grad_x);
    else
      backward_rows<stream>(row, grad, x, rows, grad_x);
  });
}

const ConcatEluKernels& concat_elu_kernels() {
  static const ConcatEluKernels kernels = {
      {forward_run<float>, forward_run<double>, forward_run<BFloat16>},
      {backward_run<float>, backward_run<double>, backward_run<BFloat16>},
  };
  return kernels;
}

}  // namespace vflow::VFLOW_TARGET
