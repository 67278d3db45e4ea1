// dropout on the CPU: checks and threads.
#include "dropout_kernel.h"
#include "row_runs.h"

using namespace vflow;

int vflow_cpu_dropout(int dtype, const void* x, const int64_t* seed, void* y, int64_t rows, int64_t channels,
                      double dropout, int threads) {
  if (dtype < 0 || dtype >= kDtypes) return VFLOW_ERROR_DTYPE;
  if (rows < 0) return VFLOW_ERROR_NEGATIVE_SIZE;
  if (channels < 1) return VFLOW_ERROR_CHANNELS;
  if (!DropoutRule::valid(dropout)) return VFLOW_ERROR_DROPOUT;
  if (threads < 1) return VFLOW_ERROR_THREADS;
  int64_t bytes;
  if (__builtin_mul_overflow(channels, int64_t{8}, &bytes) || __builtin_mul_overflow(bytes, rows, &bytes))
    return VFLOW_ERROR_OVERFLOW;
  if (rows == 0) return VFLOW_OK;
  if (!x || !seed || !y) return VFLOW_ERROR_NULL_POINTER;
  bytes = rows * channels * size_of(dtype);
  prepare_output(y, bytes);
  const DropoutArrays arrays{x, y, channels, DropoutRule(seed, dropout), bytes >= kLargeBytes};
  const auto run = VFLOW_BEST_KERNELS(dropout_kernels).run[dtype];
  const bool done =
      for_row_runs(rows, channels, threads, 0,
                   [&](int64_t, int64_t first, int64_t count, void*) { run(arrays, first, count); });
  return done ? VFLOW_OK : VFLOW_ERROR_OUT_OF_MEMORY;
}
