// concat_elu with dropout of the result, and its gradient, which draws the mask again: as concat_elu.cu, but
// with rows in pairs, whose four halves are the four rows that share dropout's counters.
#include "dropout.h"
#include "elu.h"

namespace vflow::cuda {

template <class T, int N>
__global__ void __launch_bounds__(kThreads)
    concat_elu_dropout_kernel(const T* __restrict__ x, const int64_t* __restrict__ seed, T* __restrict__ y,
                              int64_t rows, int64_t runs, uint32_t width, DropoutRate rate) {
  using Moved = Chunk<T, N>;
  const Run run = Run::of(runs, width);  // among pairs of rows
  if (!run.live) return;
  const int64_t channels = int64_t{width} * N, counter = run.index * N;
  const bool both = 2 * run.row + 1 < rows;
  x += counter + run.row * channels;
  y += counter + 3 * run.row * channels;
  Moved given[2]{};
  given[0] = *reinterpret_cast<const Moved*>(x);
  if (both) given[1] = *reinterpret_cast<const Moved*>(x + channels);
  const DropoutFactors<Real<T>> dropout(seed, rate);
  Moved result[4];
  VFLOW_UNROLL
  for (int i = 0; i < N; ++i) {
    Real<T> factors[4];
    dropout.draw(counter + i, factors);
    for (int k = 0; k < 2; ++k) {
      const Halves<Real<T>> halves = halves_of(given[k][i]);
      result[2 * k].set(i, halves.same * factors[2 * k]);
      result[2 * k + 1].set(i, halves.opposite * factors[2 * k + 1]);
    }
  }
  for (int k = 0; k < 4; ++k)
    if (k < 2 || both) store(y + k * channels, result[k]);
}

template <class T, int N>
__global__ void __launch_bounds__(kThreads)
    concat_elu_dropout_backward_kernel(const T* __restrict__ grad, const T* __restrict__ x,
                                       const int64_t* __restrict__ seed, T* __restrict__ grad_x, int64_t rows,
                                       int64_t runs, uint32_t width, DropoutRate rate) {
  using Moved = Chunk<T, N>;
  const Run run = Run::of(runs, width);
  if (!run.live) return;
  const int64_t channels = int64_t{width} * N, counter = run.index * N;
  const bool both = 2 * run.row + 1 < rows;
  grad += counter + 3 * run.row * channels;
  x += counter + run.row * channels;
  grad_x += counter + run.row * channels;
  Moved given[2]{}, back[4]{};
  for (int k = 0; k < 2; ++k)
    if (k == 0 || both) {
      given[k] = *reinterpret_cast<const Moved*>(x + k * channels);
      back[2 * k] = *reinterpret_cast<const Moved*>(grad + 2 * k * channels);
      back[2 * k + 1] = *reinterpret_cast<const Moved*>(grad + (2 * k + 1) * channels);
    }
  const DropoutFactors<Real<T>> dropout(seed, rate);
  VFLOW_UNROLL
  for (int i = 0; i < N; ++i) {
    Real<T> factors[4];
    dropout.draw(counter + i, factors);
    for (int k = 0; k < 2; ++k) {
      const Halves<Real<T>> halves{back[2 * k][i] * factors[2 * k], back[2 * k + 1][i] * factors[2 * k + 1]};
      given[k].set(i, gradient_of(given[k][i], halves));
    }
  }
  store(grad_x, given[0]);
  if (both) store(grad_x + channels, given[1]);
}

}  // namespace vflow::cuda

using namespace vflow;
using namespace vflow::cuda;

int vflow_cuda_concat_elu_dropout(int dtype, const void* x, const int64_t* seed, void* y, int64_t rows,
                                  int64_t channels, double dropout, int device, void* stream) {
  const int error = check_dropout(dtype, rows, channels, dropout);
  if (error || rows == 0) return error;
  if (!x || !seed || !y) return VFLOW_ERROR_NULL_POINTER;
  const DeviceGuard guard(device);
  if (guard.error()) return guard.error();
  return with_dtype(dtype, [&](auto number) {
    using T = decltype(number);
    return with_run<T>(channels, on_chunks(x) && on_chunks(y), [&](auto length) {
      constexpr int n = decltype(length)::value;
      const int64_t runs = quotient_up(rows, 2) * (channels / n);
      return launch(static_cast<cudaStream_t>(stream), quotient_up(runs, kThreads), kThreads, 0,
                    concat_elu_dropout_kernel<T, n>, static_cast<const T*>(x), seed, static_cast<T*>(y), rows,
                    runs, static_cast<uint32_t>(channels / n), DropoutRate(dropout));
    });
  });
}

int vflow_cuda_concat_elu_dropout_backward(int dtype, const void* grad, const void* x, const int64_t* seed,
                                           void* grad_x, int64_t rows, int64_t channels, double dropout,
                                           int device, void* stream) {
  const int error = check_dropout(dtype, rows, channels, dropout);
  if (error || rows == 0) return error;
  if (!grad || !x || !seed || !grad_x) return VFLOW_ERROR_NULL_POINTER;
  const DeviceGuard guard(device);
  if (guard.error()) return guard.error();
  return with_dtype(dtype, [&](auto number) {
    using T = decltype(number);
    return with_run<T>(channels, on_chunks(grad) && on_chunks(x) && on_chunks(grad_x), [&](auto length) {
      constexpr int n = decltype(length)::value;
      const int64_t runs = quotient_up(rows, 2) * (channels / n);
      return launch(static_cast<cudaStream_t>(stream), quotient_up(runs, kThreads), kThreads, 0,
                    concat_elu_dropout_backward_kernel<T, n>, static_cast<const T*>(grad),
                    static_cast<const T*>(x), seed, static_cast<T*>(grad_x), rows, runs,
                    static_cast<uint32_t>(channels / n), DropoutRate(dropout));
    });
  });
}
