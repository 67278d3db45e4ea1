// self_attention on the CPU: checks and threads.
#include "self_attention_kernel.h"
#include "parallel.h"

namespace vflow {

static int check(int dtype, int64_t batch, const SelfAttentionArrays& arrays, int threads) {
  if (dtype < 0 || dtype >= kDtypes) return VFLOW_ERROR_DTYPE;
  if (batch < 0 || arrays.positions < 0) return VFLOW_ERROR_NEGATIVE_SIZE;
  if (arrays.heads < 1 || arrays.width < 1) return VFLOW_ERROR_CHANNELS;
  if (threads < 1) return VFLOW_ERROR_THREADS;
  int64_t bytes;  // of qkv, and of a head's scratch
  if (__builtin_mul_overflow(arrays.heads, int64_t{1024}, &bytes) ||
      __builtin_mul_overflow(bytes, arrays.width, &bytes) ||
      __builtin_mul_overflow(bytes, arrays.positions + 1, &bytes) ||
      __builtin_mul_overflow(bytes, batch, &bytes))
    return VFLOW_ERROR_OVERFLOW;
  return VFLOW_OK;
}

static int for_heads(int64_t batch, const SelfAttentionArrays& arrays, int threads,
                     SelfAttentionKernels::Run run) {
  const int64_t heads = batch * arrays.heads;
  const int64_t bytes =
      VFLOW_BEST_KERNELS(self_attention_kernels).scratch_bytes(arrays.positions, arrays.width);
  threads = threads_for(heads, threads);
  const Scratch scratch = allocate(bytes, threads);
  if (!scratch) return VFLOW_ERROR_OUT_OF_MEMORY;
  parallel_for(heads, threads, [&](int64_t i, int thread) {
    run(arrays, i / arrays.heads, i % arrays.heads, scratch.get() + thread * aligned(bytes));
  });
  return VFLOW_OK;
}

}  // namespace vflow

using namespace vflow;

int vflow_cpu_self_attention(int dtype, const void* qkv, void* output, void* log_total, int64_t batch,
                             int64_t positions, int64_t heads, int64_t width, int threads) {
  SelfAttentionArrays arrays{};
  arrays.qkv = qkv;
  arrays.output = output;
  arrays.log_total = log_total;
  arrays.positions = positions;
  arrays.heads = heads;
  arrays.width = width;
  const int error = check(dtype, batch, arrays, threads);
  if (error || batch == 0 || positions == 0) return error;
  if (!qkv || !output || !log_total) return VFLOW_ERROR_NULL_POINTER;
  return for_heads(batch, arrays, threads, VFLOW_BEST_KERNELS(self_attention_kernels).forward[dtype]);
}

int vflow_cpu_self_attention_backward(int dtype, const void* grad, const void* grad_log_total,
                                      const void* qkv, const void* output, const void* log_total,
                                      void* grad_qkv, int64_t batch, int64_t positions, int64_t heads,
                                      int64_t width, int threads) {
  SelfAttentionArrays arrays{};
  arrays.qkv = qkv;
  arrays.output = const_cast<void*>(output);
  arrays.log_total = const_cast<void*>(log_total);
  arrays.grad = grad;
  arrays.grad_log_total = grad_log_total;
  arrays.grad_qkv = grad_qkv;
  arrays.positions = positions;
  arrays.heads = heads;
  arrays.width = width;
  const int error = check(dtype, batch, arrays, threads);
  if (error || batch == 0 || positions == 0) return error;
  if (!grad || !grad_log_total || !qkv || !output || !log_total || !grad_qkv) return VFLOW_ERROR_NULL_POINTER;
  prepare_output(grad_qkv, 3 * batch * positions * heads * width * size_of(dtype));
  return for_heads(batch, arrays, threads, VFLOW_BEST_KERNELS(self_attention_kernels).backward[dtype]);
}
