// The concat_elu kernels for one instruction set (VFLOW_TARGET): a SIMD vector of channels at a time.
#include "concat_elu_kernel.h"

#include "parts.h"
#include "simd.h"

namespace vflow::VFLOW_TARGET {

template <class S>
void forward_run(const ConcatEluArrays& arrays, int64_t first, int64_t rows, void* stage) {
  using V = Vector<S>;
  const int64_t channels = arrays.channels;
  const RowVectors<S> vectors(channels);
  const S* x = static_cast<const S*>(arrays.x) + first * channels;
  const RowWriter<S> y(static_cast<S*>(arrays.output) + first * 2 * channels, 2 * channels,
                       static_cast<S*>(stage), arrays.stream);
  for (int64_t i = 0; i < rows; ++i, x += channels) {
    S* to = y.row(i);
    for (int64_t j = 0; j < vectors.count; ++j) {
      const int64_t start = vectors.first(j);
      const V numbers = load_some(x + start, vectors.filled());
      const V below = expm1_bounded(-magnitude(numbers));
      const auto positive = numbers > V{};
      store_some(positive ? numbers : below, vectors.filled(), to + start);
      store_some(positive ? below : -numbers, vectors.filled(), to + channels + start);
    }
    y.written(i, i + 1 == rows);
  }
}

template <class S>
void backward_run(const ConcatEluArrays& arrays, int64_t first, int64_t rows, void* stage) {
  using V = Vector<S>;
  const int64_t channels = arrays.channels;
  const RowVectors<S> vectors(channels);
  const S* x = static_cast<const S*>(arrays.x) + first * channels;
  const S* grad = static_cast<const S*>(arrays.grad) + first * 2 * channels;
  const RowWriter<S> grad_x(static_cast<S*>(arrays.output) + first * channels, channels,
                            static_cast<S*>(stage), arrays.stream);
  for (int64_t i = 0; i < rows; ++i, x += channels, grad += 2 * channels) {
    S* to = grad_x.row(i);
    for (int64_t j = 0; j < vectors.count; ++j) {
      const int64_t start = vectors.first(j);
      const V numbers = load_some(x + start, vectors.filled());
      const V same = load_some(grad + start, vectors.filled());
      const V opposite = load_some(grad + channels + start, vectors.filled());
      // The derivative is 1 on the positive side of each half and exp(-|x|) on its negative one.
      const V slope = exp_minus(magnitude(numbers));
      const V gradient = numbers > V{} ? same - opposite * slope : same * slope - opposite;
      store_some(gradient, vectors.filled(), to + start);
    }
    grad_x.written(i, i + 1 == rows);
  }
}

const ConcatEluKernels& concat_elu_kernels() {
  static const ConcatEluKernels kernels = {
      {forward_run<float>, forward_run<double>, forward_run<BFloat16>},
      {backward_run<float>, backward_run<double>, backward_run<BFloat16>},
      kStageRows,
  };
  return kernels;
}

}  // namespace vflow::VFLOW_TARGET
