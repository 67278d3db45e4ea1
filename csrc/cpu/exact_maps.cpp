// Exact elementwise functions of doubles, and exact triangular maps of whole numbers: checks and threads.
#include "exact_maps_kernel.h"

#include <atomic>

#include "parallel.h"

namespace vflow {

constexpr int64_t kRun = 4096;
constexpr int64_t kMostLifted = int64_t{1} << 44;  // channels of it stay exact in sums of doubles

}  // namespace vflow

using namespace vflow;

int vflow_cpu_exact_function(int function, const double* x, double* y, int64_t count, int threads) {
  if (function < VFLOW_EXP || function > VFLOW_SIGMOID) return VFLOW_ERROR_FLAG;
  if (count < 0) return VFLOW_ERROR_NEGATIVE_SIZE;
  if (threads < 1) return VFLOW_ERROR_THREADS;
  if (count > 0 && (!x || !y)) return VFLOW_ERROR_NULL_POINTER;
  const auto apply = VFLOW_BEST_KERNELS(exact_maps_kernels).apply;
  const int64_t runs = (count + kRun - 1) / kRun;
  parallel_for(runs, threads_for(runs, threads), [&](int64_t i, int) {
    const int64_t first = i * kRun;
    apply(function, x + first, y + first, count - first < kRun ? count - first : kRun);
  });
  return VFLOW_OK;
}

int vflow_cpu_exact_lift(int64_t* rows, const double* matrix, int64_t count, int64_t channels, int upper,
                         int inverse, int threads) {
  if (count < 0) return VFLOW_ERROR_NEGATIVE_SIZE;
  if (channels < 1) return VFLOW_ERROR_CHANNELS;
  if ((upper != 0 && upper != 1) || (inverse != 0 && inverse != 1)) return VFLOW_ERROR_FLAG;
  if (threads < 1) return VFLOW_ERROR_THREADS;
  int64_t numbers, bytes;
  if (__builtin_mul_overflow(count, channels, &numbers) ||
      __builtin_mul_overflow(channels, kLiftRows * 8, &bytes))
    return VFLOW_ERROR_OVERFLOW;
  if (count == 0) return VFLOW_OK;
  if (!rows || !matrix) return VFLOW_ERROR_NULL_POINTER;
  bool outside = false;
  for (int64_t i = 0; i < numbers; ++i) outside |= rows[i] < -kMostLifted || rows[i] > kMostLifted;
  if (outside) return VFLOW_ERROR_CODER_RANGE;
  const int64_t blocks = (count + kLiftRows - 1) / kLiftRows;
  threads = threads_for(blocks, threads);
  const Scratch scratch = allocate(bytes, threads);
  if (!scratch) return VFLOW_ERROR_OUT_OF_MEMORY;
  std::atomic<bool> beyond{false};
  const auto lift = VFLOW_BEST_KERNELS(exact_maps_kernels).lift;
  parallel_for(blocks, threads, [&](int64_t i, int thread) {
    const int64_t first = i * kLiftRows;
    const bool inside =
        lift(rows + first * channels, matrix, count - first < kLiftRows ? count - first : kLiftRows, channels,
             upper, inverse, reinterpret_cast<double*>(scratch.get() + thread * aligned(bytes)));
    if (!inside) beyond.store(true, std::memory_order_relaxed);
  });
  return beyond.load() ? VFLOW_ERROR_CODER_RANGE : VFLOW_OK;
}
