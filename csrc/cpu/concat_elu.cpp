// concat_elu on the CPU: checks and threads.
#include "concat_elu_kernel.h"
#include "row_runs.h"

namespace vflow {

static int check(int dtype, int64_t rows, int64_t channels, int threads) {
  if (dtype < 0 || dtype >= kDtypes) return VFLOW_ERROR_DTYPE;
  if (rows < 0) return VFLOW_ERROR_NEGATIVE_SIZE;
  if (channels < 1) return VFLOW_ERROR_CHANNELS;
  if (threads < 1) return VFLOW_ERROR_THREADS;
  int64_t bytes;  // of the larger array
  if (__builtin_mul_overflow(channels, int64_t{2 * 8}, &bytes) || __builtin_mul_overflow(bytes, rows, &bytes))
    return VFLOW_ERROR_OVERFLOW;
  return VFLOW_OK;
}

static int for_runs(ConcatEluKernels::Run run, int dtype, ConcatEluArrays& arrays, int64_t rows,
                    int64_t output_width, int threads) {
  const int64_t row_bytes = output_width * size_of(dtype);
  arrays.stream = rows * row_bytes >= kLargeBytes;
  prepare_output(arrays.output, rows * row_bytes);
  const bool done =
      for_row_runs(rows, arrays.channels, threads, 0,
                   [&](int64_t, int64_t first, int64_t count, void*) { run(arrays, first, count); });
  return done ? VFLOW_OK : VFLOW_ERROR_OUT_OF_MEMORY;
}

}  // namespace vflow

using namespace vflow;

int vflow_cpu_concat_elu(int dtype, const void* x, void* y, int64_t rows, int64_t channels, int threads) {
  const int error = check(dtype, rows, channels, threads);
  if (error || rows == 0) return error;
  if (!x || !y) return VFLOW_ERROR_NULL_POINTER;
  ConcatEluArrays arrays{x, nullptr, y, channels, false};
  return for_runs(VFLOW_BEST_KERNELS(concat_elu_kernels).forward[dtype], dtype, arrays, rows, 2 * channels,
                  threads);
}

int vflow_cpu_concat_elu_backward(int dtype, const void* grad, const void* x, void* grad_x, int64_t rows,
                                  int64_t channels, int threads) {
  const int error = check(dtype, rows, channels, threads);
  if (error || rows == 0) return error;
  if (!grad || !x || !grad_x) return VFLOW_ERROR_NULL_POINTER;
  ConcatEluArrays arrays{x, grad, grad_x, channels, false};
  return for_runs(VFLOW_BEST_KERNELS(concat_elu_kernels).backward[dtype], dtype, arrays, rows, channels,
                  threads);
}
