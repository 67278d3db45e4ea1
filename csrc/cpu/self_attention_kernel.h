// The self_attention kernels of one instruction set: one head of one image is the unit of work of a thread.
#pragma once

#include <stdint.h>

#include "target.h"

namespace vflow {

// Whole arrays; qkv and grad_qkv are [batch, positions, 3, heads, width], output and grad are
// [batch, positions, heads, width], the `real` arrays [batch, heads, positions].
struct SelfAttentionArrays {
  const void* qkv;
  void* output;     // read by the gradient
  void* log_total;  // likewise
  const void* grad;
  const void* grad_log_total;
  void* grad_qkv;
  int64_t positions, heads, width;
};

struct SelfAttentionKernels {
  // Bytes of scratch, aligned to 64, that a head needs.
  int64_t (*scratch_bytes)(int64_t positions, int64_t width);
  using Run = void (*)(const SelfAttentionArrays&, int64_t image, int64_t head, void* scratch);
  Run forward[kDtypes], backward[kDtypes];
};

VFLOW_DECLARE_KERNELS(const SelfAttentionKernels& self_attention_kernels())

}  // namespace vflow
