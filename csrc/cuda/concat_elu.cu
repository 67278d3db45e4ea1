// elu of a tensor beside its negative, and its gradient: one read, one write, 16 bytes a thread where rows
// are multiples of that.
#include <type_traits>

#include "launch.h"
#include "math.h"
#include "numbers.h"

namespace vflow::cuda {

// Where a thread's numbers of x lie, and those of the row twice as long.
struct PairPlace {
  int64_t single, pair;
  bool live;

  // Rows of `width` runs of N numbers.
  template <int N>
  static __device__ __forceinline__ PairPlace of(int64_t runs, uint32_t width) {
    const int64_t run = int64_t{blockIdx.x} * kThreads + threadIdx.x;
    const int64_t row =
        runs <= INT64_C(0xffffffff) ? static_cast<uint32_t>(run) / width : run / static_cast<int64_t>(width);
    return {run * N, (run + row * width) * N, run < runs};
  }
};

template <class T, int N>
__global__ void __launch_bounds__(kThreads)
    concat_elu_kernel(const T* __restrict__ x, T* __restrict__ y, int64_t runs, uint32_t width) {
  using Moved = Chunk<T, N>;
  const PairPlace place = PairPlace::of<N>(runs, width);
  if (!place.live) return;
  const Moved given = *reinterpret_cast<const Moved*>(x + place.single);
  Moved same, opposite;
  for (int i = 0; i < N; ++i) {
    const Real<T> x_i = given[i], below = expm1_bounded(-magnitude(x_i));
    same.set(i, x_i > 0 ? x_i : below);
    opposite.set(i, x_i > 0 ? below : -x_i);
  }
  *reinterpret_cast<Moved*>(y + place.pair) = same;
  *reinterpret_cast<Moved*>(y + place.pair + int64_t{width} * N) = opposite;
}

template <class T, int N>
__global__ void __launch_bounds__(kThreads)
    concat_elu_backward_kernel(const T* __restrict__ grad, const T* __restrict__ x, T* __restrict__ grad_x,
                               int64_t runs, uint32_t width) {
  using Moved = Chunk<T, N>;
  const PairPlace place = PairPlace::of<N>(runs, width);
  if (!place.live) return;
  const Moved given = *reinterpret_cast<const Moved*>(x + place.single);
  const Moved same = *reinterpret_cast<const Moved*>(grad + place.pair);
  const Moved opposite = *reinterpret_cast<const Moved*>(grad + place.pair + int64_t{width} * N);
  Moved gradient;
  for (int i = 0; i < N; ++i) {
    // The derivative is 1 on the positive side of each half and exp(-|x|) on its negative one.
    const Real<T> x_i = given[i], slope = exp_of_rounded(-magnitude(x_i));
    gradient.set(i, x_i > 0 ? same[i] - opposite[i] * slope : same[i] * slope - opposite[i]);
  }
  *reinterpret_cast<Moved*>(grad_x + place.single) = gradient;
}

// Calls `function` with the numbers to a thread: 16 bytes of them, or one where rows or pointers do not allow
// it.
template <class T, class Function>
int with_run(int64_t channels, bool aligned, Function function) {
  constexpr int chunk = kChunkNumbers<T>;
  if (aligned && channels % chunk == 0) return function(std::integral_constant<int, chunk>{});
  return function(std::integral_constant<int, 1>{});
}

static int check(int dtype, int64_t rows, int64_t channels) {
  int64_t bytes;
  if (!size_of(dtype)) return VFLOW_ERROR_DTYPE;
  if (rows < 0) return VFLOW_ERROR_NEGATIVE_SIZE;
  if (channels < 1) return VFLOW_ERROR_CHANNELS;
  return channels > INT64_C(0x7fffffff) || __builtin_mul_overflow(rows, 2 * 8 * channels, &bytes)
             ? VFLOW_ERROR_OVERFLOW
             : VFLOW_OK;
}

}  // namespace vflow::cuda

using namespace vflow::cuda;

int vflow_cuda_concat_elu(int dtype, const void* x, void* y, int64_t rows, int64_t channels, int device,
                          void* stream) {
  const int error = check(dtype, rows, channels);
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
  const int error = check(dtype, rows, channels);
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
