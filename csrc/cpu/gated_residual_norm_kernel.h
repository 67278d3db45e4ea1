// The gated_residual_norm kernels of one instruction set: a run of rows is the unit of work of a thread.
#pragma once

#include <stdint.h>

#include "arrays.h"
#include "target.h"

namespace vflow {

struct GatedResidualNormArrays {
  const void* x;       // [rows, features]
  const void* ab;      // [rows, 2 features]
  const void* weight;  // real [features]
  const void* bias;    // real [features], not of the gradient
  void* output;        // y; grad x of the gradient
  const void* grad;    // of the gradient alone, as is the following
  void* grad_ab;
  int64_t features;
  bool stream;  // whether the outputs are to go around the caches
};

struct GatedResidualNormKernels {
  // Bytes of scratch, aligned to 64, that a run needs, at most.
  int64_t (*scratch_bytes)(int64_t features);
  // `sums`, of the gradient alone, is given the run's part of grad weight and grad bias, real [2, features].
  using Run = void (*)(const GatedResidualNormArrays&, int64_t first, int64_t rows, void* scratch,
                       void* sums);
  Run forward[kDtypes], backward[kDtypes];
};

VFLOW_DECLARE_KERNELS(const GatedResidualNormKernels& gated_residual_norm_kernels())

}  // namespace vflow
