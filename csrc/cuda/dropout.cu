// dropout: a thread draws once for each column of its run in four rows, and moves the four runs.
#include "dropout.h"

namespace vflow::cuda {

template <class T, int N>
__global__ void __launch_bounds__(kThreads)
    dropout_kernel(const T* __restrict__ x, const int64_t* __restrict__ seed, T* __restrict__ y, int64_t rows,
                   int64_t runs, uint32_t width, DropoutRate rate) {
  using Moved = Chunk<T, N>;
  const Run run = Run::of(runs, width);  // among fours of rows
  if (!run.live) return;
  const int64_t channels = int64_t{width} * N, counter = run.index * N, first = 4 * run.row;
  x += counter + 3 * run.row * channels;
  y += counter + 3 * run.row * channels;
  Moved moved[4]{};
  for (int k = 0; k < 4; ++k)
    if (first + k < rows) moved[k] = *reinterpret_cast<const Moved*>(x + k * channels);
  const DropoutFactors<Real<T>> dropout(seed, rate);
  VFLOW_UNROLL
  for (int i = 0; i < N; ++i) {
    Real<T> factors[4];
    dropout.draw(counter + i, factors);
    for (int k = 0; k < 4; ++k) moved[k].set(i, moved[k][i] * factors[k]);
  }
  for (int k = 0; k < 4; ++k)
    if (first + k < rows) store(y + k * channels, moved[k]);
}

}  // namespace vflow::cuda

using namespace vflow;
using namespace vflow::cuda;

int vflow_cuda_dropout(int dtype, const void* x, const int64_t* seed, void* y, int64_t rows, int64_t channels,
                       double dropout, int device, void* stream) {
  const int error = check_dropout(dtype, rows, channels, dropout);
  if (error || rows == 0) return error;
  if (!x || !seed || !y) return VFLOW_ERROR_NULL_POINTER;
  const DeviceGuard guard(device);
  if (guard.error()) return guard.error();
  return with_dtype(dtype, [&](auto number) {
    using T = decltype(number);
    return with_run<T>(channels, on_chunks(x) && on_chunks(y), [&](auto length) {
      constexpr int n = decltype(length)::value;
      const int64_t runs = quotient_up(rows, 4) * (channels / n);
      return launch(static_cast<cudaStream_t>(stream), quotient_up(runs, kThreads), kThreads, 0,
                    dropout_kernel<T, n>, static_cast<const T*>(x), seed, static_cast<T*>(y), rows, runs,
                    static_cast<uint32_t>(channels / n), DropoutRate(dropout));
    });
  });
}
