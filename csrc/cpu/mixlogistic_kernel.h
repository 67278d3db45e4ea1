// The mixlogistic kernels of one instruction set: a run of elements of one image is the unit of work of a
// thread.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "arrays.h"
#include "target.h"

namespace vflow {

// What a run reads and writes. Pointers are to the whole arrays; `first` and `count` choose the elements.
struct MixlogisticArrays {
  RowsView input;  // x; y of the inverse
  const void* params;
  void* output;     // y; x of the inverse; grad x of the gradient
  RowsView grad_y;  // of the gradient alone, as are the following
  const void* grad_logdet;
  void* grad_params;
  int64_t components;
  bool stream;  // whether grad_params is to go around the caches
};

struct MixlogisticKernels {
  // Bytes of scratch, aligned to 64, that a run of the operation needs.
  int64_t (*scratch_bytes)(int64_t components);
  // [dtype][squash]; each returns the sum of the log-derivatives, the gradient nothing of meaning.
  using Run = double (*)(const MixlogisticArrays&, int64_t image, int64_t first, int64_t count,
                         void* scratch);
  Run forward[kDtypes][2], backward[kDtypes][2], inverse[kDtypes][2];
};

VFLOW_DECLARE_KERNELS(const MixlogisticKernels& mixlogistic_kernels())

}  // namespace vflow
