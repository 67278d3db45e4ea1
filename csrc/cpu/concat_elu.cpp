// concat_elu on the CPU, with and without dropout: checks and threads.
#include "concat_elu_kernel.h"
#include "row_runs.h"

namespace vflow {

static int check(int dtype, int64_t rows, int64_t channels, double dropout, int threads) {
  if (dtype < 0 || dtype >= kDtypes) return VFLOW_ERROR_DTYPE;
  if (rows < 0) return VFLOW_ERROR_NEGATIVE_SIZE;
  if (channels < 1) return VFLOW_ERROR_CHANNELS;
  if (!DropoutRule::valid(dropout)) return VFLOW_ERROR_DROPOUT;
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

static int forward(int dtype, const void* x, void* y, int64_t rows, int64_t channels,
                   const DropoutRule* dropout, int threads) {
  if (!x || !y) return VFLOW_ERROR_NULL_POINTER;
  ConcatEluArrays arrays{x, nullptr, y, channels, dropout, false};
  return for_runs(VFLOW_BEST_KERNELS(concat_elu_kernels).forward[dtype], dtype, arrays, rows, 2 * channels,
                  threads);
}

static int backward(int dtype, const void* grad, const void* x, void* grad_x, int64_t rows, int64_t channels,
                    const DropoutRule* dropout, int threads) {
  if (!grad || !x || !grad_x) return VFLOW_ERROR_NULL_POINTER;
  ConcatEluArrays arrays{x, grad, grad_x, channels, dropout, false};
  return for_runs(VFLOW_BEST_KERNELS(concat_elu_kernels).backward[dtype], dtype, arrays, rows, channels,
                  threads);
}

}  // namespace vflow

using namespace vflow;

int vflow_cpu_concat_elu(int dtype, const void* x, void* y, int64_t rows, int64_t channels, int threads) {
  const int error = check(dtype, rows, channels, 0, threads);
  if (error || rows == 0) return error;
  return forward(dtype, x, y, rows, channels, nullptr, threads);
}

int vflow_cpu_concat_elu_backward(int dtype, const void* grad, const void* x, void* grad_x, int64_t rows,
                                  int64_t channels, int threads) {
  const int error = check(dtype, rows, channels, 0, threads);
  if (error || rows == 0) return error;
  return backward(dtype, grad, x, grad_x, rows, channels, nullptr, threads);
}

int vflow_cpu_concat_elu_dropout(int dtype, const void* x, const int64_t* seed, void* y, int64_t rows,
                                 int64_t channels, double dropout, int threads) {
  const int error = check(dtype, rows, channels, dropout, threads);
  if (error || rows == 0) return error;
  if (!seed) return VFLOW_ERROR_NULL_POINTER;
  const DropoutRule rule(seed, dropout);
  return forward(dtype, x, y, rows, channels, &rule, threads);
}

int vflow_cpu_concat_elu_dropout_backward(int dtype, const void* grad, const void* x, const int64_t* seed,
                                          void* grad_x, int64_t rows, int64_t channels, double dropout,
                                          int threads) {
  const int error = check(dtype, rows, channels, dropout, threads);
  if (error || rows == 0) return error;
  if (!seed) return VFLOW_ERROR_NULL_POINTER;
  const DropoutRule rule(seed, dropout);
  return backward(dtype, grad, x, grad_x, rows, channels, &rule, threads);
}
