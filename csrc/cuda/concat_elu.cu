// elu of a tensor beside its negative, and its gradient: one read, one write, 16 bytes a thread where rows
// are multiples of that.
#include "elu.h"
#include "runs.h"

namespace vflow::cuda {

template <class T, int N>
__global__ void __launch_bounds__(kThreads)
    concat_elu_kernel(const T* __restrict__ x, T* __restrict__ y, int64_t runs, uint32_t width) {
  using Moved = Chunk<T, N>;
  const Run run = Run::of(runs, width);
  if (!run.live) return;
  const int64_t single = run.index * N, channels = int64_t{width} * N, twice = single + run.row * channels;
  const Moved given = *reinterpret_cast<const Moved*>(x + single);
  Moved same, opposite;
  for (int i = 0; i < N; ++i) {
    const Halves<Real<T>> halves = halves_of(given[i]);
    same.set(i, halves.same);
    opposite.set(i, halves.opposite);
  }
  store(y + twice, same);
  store(y + twice + channels, opposite);
}

template <class T, int N>
__global__ void __launch_bounds__(kThreads)
    concat_elu_backward_kernel(const T* __restrict__ grad, const T* __restrict__ x, T* __restrict__ grad_x,
                               int64_t runs, uint32_t width) {
  using Moved = Chunk<T, N>;
  const Run run = Run::of(runs, width);
  if (!run.live) return;
  const int64_t single = run.index * N, channels = int64_t{width} * N, twice = single + run.row * channels;
  const Moved given = *reinterpret_cast<const Moved*>(x + single);
  const Moved same = *reinterpret_cast<const Moved*>(grad + twice);
  const Moved opposite = *reinterpret_cast<const Moved*>(grad + twice + channels);
  Moved gradient;
  for (int i = 0; i < N; ++i) gradient.set(i, gradient_of(given[i], Halves<Real<T>>{same[i], opposite[i]}));
  store(grad_x + single, gradient);
}

}  // namespace vflow::cuda

using namespace vflow::cuda;

int vflow_cuda_concat_elu(int dtype, const void* x, void* y, int64_t rows, int64_t channels, int device,
                          void* stream) {
  const int error = check_rows(dtype, rows, channels);
  if (error || rows == 0) return error;
  if (!x || !y) return VFLOW_ERROR_NULL_POINTER;
  const DeviceGuard guard(device);
  if (guard.error()) return guard.error();
  return with_dtype(dtype, [&](auto number) {
    using T = decltype(number);
    return with_run<T>(channels, on_chunks(x) && on_chunks(y), [&](auto length) {
      constexpr int n = decltype(length)::value;
      const int64_t runs = rows * (channels / n);
      return launch(static_cast<cudaStream_t>(stream), quotient_up(runs, kThreads), kThreads, 0,
                    concat_elu_kernel<T, n>, static_cast<const T*>(x), static_cast<T*>(y), runs,
                    static_cast<uint32_t>(channels / n));
    });
  });
}

int vflow_cuda_concat_elu_backward(int dtype, const void* grad, const void* x, void* grad_x, int64_t rows,
                                   int64_t channels, int device, void* stream) {
  const int error = check_rows(dtype, rows, channels);
  if (error || rows == 0) return error;
  if (!grad || !x || !grad_x) return VFLOW_ERROR_NULL_POINTER;
  const DeviceGuard guard(device);
  if (guard.error()) return guard.error();
  return with_dtype(dtype, [&](auto number) {
    using T = decltype(number);
    return with_run<T>(channels, on_chunks(grad) && on_chunks(x) && on_chunks(grad_x), [&](auto length) {
      constexpr int n = decltype(length)::value;
      const int64_t runs = rows * (channels / n);
      return launch(static_cast<cudaStream_t>(stream), quotient_up(runs, kThreads), kThreads, 0,
                    concat_elu_backward_kernel<T, n>, static_cast<const T*>(grad), static_cast<const T*>(x),
                    static_cast<T*>(grad_x), runs, static_cast<uint32_t>(channels / n));
    });
  });
}
