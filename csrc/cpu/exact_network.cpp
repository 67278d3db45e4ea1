// What is exact in a coupling's network, beside the convolutions: checks and threads.
#include "exact_network_kernel.h"
#include "parallel.h"
#include "row_runs.h"

using namespace vflow;

static int check_rows(int64_t rows, int64_t width, int threads) {
  if (rows < 0) return VFLOW_ERROR_NEGATIVE_SIZE;
  if (width < 1) return VFLOW_ERROR_CHANNELS;
  if (threads < 1) return VFLOW_ERROR_THREADS;
  int64_t bytes;
  if (__builtin_mul_overflow(width, int64_t{16}, &bytes) || __builtin_mul_overflow(bytes, rows, &bytes))
    return VFLOW_ERROR_OVERFLOW;
  return VFLOW_OK;
}

int vflow_cpu_exact_concat_elu(const float* x, float* y, int64_t rows, int64_t channels, int threads) {
  const int error = check_rows(rows, channels, threads);
  if (error || rows == 0) return error;
  if (!x || !y) return VFLOW_ERROR_NULL_POINTER;
  const auto kernel = VFLOW_BEST_KERNELS(exact_network_kernels).concat_elu;
  for_row_runs(rows, channels, threads, 0, [&](int64_t, int64_t first, int64_t count, char*) {
    kernel(x + first * channels, y + first * 2 * channels, count, channels);
  });
  return VFLOW_OK;
}

int vflow_cpu_exact_gated_residual(const float* x, const float* ab, const float* weight, const float* bias,
                                   float* y, int64_t rows, int64_t features, int threads) {
  const int error = check_rows(rows, features, threads);
  if (error || rows == 0) return error;
  if (!x || !ab || !y || !weight != !bias) return VFLOW_ERROR_NULL_POINTER;
  const auto kernel = VFLOW_BEST_KERNELS(exact_network_kernels).gated_residual;
  for_row_runs(rows, features, threads, 0, [&](int64_t, int64_t first, int64_t count, char*) {
    kernel(x + first * features, ab + first * 2 * features, weight, bias, y + first * features, count,
           features);
  });
  return VFLOW_OK;
}

int vflow_cpu_exact_attention(const float* qkv, float* y, int64_t batch, int64_t positions, int64_t heads,
                              int64_t width, int threads) {
  if (batch < 0 || positions < 0) return VFLOW_ERROR_NEGATIVE_SIZE;
  if (heads < 1 || width < 1) return VFLOW_ERROR_CHANNELS;
  if (threads < 1) return VFLOW_ERROR_THREADS;
  int64_t numbers, bytes;
  if (__builtin_mul_overflow(width + 16, (positions < INT32_MAX ? positions : INT64_MAX) + 16, &bytes) ||
      __builtin_mul_overflow(bytes, int64_t{16}, &bytes) ||
      __builtin_mul_overflow(width, positions, &numbers) ||
      __builtin_mul_overflow(numbers, heads, &numbers) ||
      __builtin_mul_overflow(numbers, int64_t{12}, &numbers) ||
      __builtin_mul_overflow(numbers, batch, &numbers))
    return VFLOW_ERROR_OVERFLOW;
  if (batch == 0 || positions == 0) return VFLOW_OK;
  if (!qkv || !y) return VFLOW_ERROR_NULL_POINTER;
  const ExactNetworkKernels& kernels = VFLOW_BEST_KERNELS(exact_network_kernels);
  const int64_t room = kernels.attention_room(positions, width) * 4, pieces = batch * heads;
  threads = threads_for(pieces, threads);
  const Scratch scratch = allocate(room, threads);
  if (!scratch) return VFLOW_ERROR_OUT_OF_MEMORY;
  parallel_for(pieces, threads, [&](int64_t i, int thread) {
    const int64_t image = i / heads, size = positions * heads * width;
    kernels.attention(qkv + image * 3 * size, y + image * size, positions, heads, width, i % heads,
                      reinterpret_cast<float*>(scratch.get() + thread * aligned(room)));
  });
  return VFLOW_OK;
}
