// The kernels of one instruction set for what is exact in a coupling's network, beside the convolutions.
#pragma once

#include <stdint.h>

#include "target.h"

namespace vflow {

struct ExactNetworkKernels {
  void (*concat_elu)(const float* x, float* y, int64_t rows, int64_t channels);
  // x + a sigmoid(b), [a, b] = ab; with weight and bias normalised over the features.
  void (*gated_residual)(const float* x, const float* ab, const float* weight, const float* bias, float* y,
                         int64_t rows, int64_t features);
  // Floats of scratch for a head, and one head of one image: qkv [positions, 3, heads, width].
  int64_t (*attention_room)(int64_t positions, int64_t width);
  void (*attention)(const float* qkv, float* y, int64_t positions, int64_t heads, int64_t width, int64_t head,
                    float* room);
};

VFLOW_DECLARE_KERNELS(const ExactNetworkKernels& exact_network_kernels())

}  // namespace vflow
