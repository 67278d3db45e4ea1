// The concat_elu kernels for one instruction set (VFLOW_TARGET): a SIMD vector of channels at a time.
#include "concat_elu_kernel.h"

#include "parts.h"
#include "simd.h"

namespace vflow::VFLOW_TARGET {

template <bool streaming, class S, class Row>
VFLOW_INLINE void forward_rows(const Row& row, const S* x, int64_t rows, S* y) {
  using V = Vector<S>;
  for (int64_t i = 0; i < rows; ++i, x += row.width, y += 2 * row.width)
    for (int64_t j = 0; j < row.count; ++j) {
      const V numbers = row.load(x, j);
      const V below = expm1_bounded(-magnitude(numbers));
      const auto positive = numbers > V{};
      row.template write<streaming>(positive ? numbers : below, j, y);
      row.template write<streaming>(positive ? below : -numbers, j, y + row.width);
    }
}

template <bool streaming, class S, class Row>
VFLOW_INLINE void backward_rows(const Row& row, const S* grad, const S* x, int64_t rows, S* grad_x) {
  using V = Vector<S>;
  for (int64_t i = 0; i < rows; ++i, x += row.width, grad += 2 * row.width, grad_x += row.width)
    for (int64_t j = 0; j < row.count; ++j) {
      const V numbers = row.load(x, j), same = row.load(grad, j), opposite = row.load(grad + row.width, j);
      // The derivative is 1 on the positive side of each half and exp(-|x|) on its negative one.
      const V slope = exp_minus(magnitude(numbers));
      const V gradient = numbers > V{} ? same - opposite * slope : same * slope - opposite;
      row.template write<streaming>(gradient, j, grad_x);
    }
}

template <class S>
void forward_run(const ConcatEluArrays& arrays, int64_t first, int64_t rows) {
  const int64_t channels = arrays.channels;
  const S* x = static_cast<const S*>(arrays.x) + first * channels;
  S* y = static_cast<S*>(arrays.output) + first * 2 * channels;
  for_row_kind(y, channels, arrays.stream, [&](const auto& row, auto streaming) {
    forward_rows<decltype(streaming)::value>(row, x, rows, y);
  });
}

template <class S>
void backward_run(const ConcatEluArrays& arrays, int64_t first, int64_t rows) {
  const int64_t channels = arrays.channels;
  const S* x = static_cast<const S*>(arrays.x) + first * channels;
  const S* grad = static_cast<const S*>(arrays.grad) + first * 2 * channels;
  S* grad_x = static_cast<S*>(arrays.output) + first * channels;
  for_row_kind(grad_x, channels, arrays.stream, [&](const auto& row, auto streaming) {
    backward_rows<decltype(streaming)::value>(row, grad, x, rows, grad_x);
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
