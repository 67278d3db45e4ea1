// The concat_elu kernels of one instruction set: a run of rows is the unit of work of a thread.
#pragma once

#include <stdint.h>

#include "arrays.h"
#include "dropout_rule.h"
#include "target.h"

namespace vflow {

struct ConcatEluArrays {
  const void* x;     // [rows, channels]
  const void* grad;  // [rows, 2 channels], of the gradient alone
  void* output;      // y [rows, 2 channels]; grad x [rows, channels] of the gradient
  int64_t channels;
  const DropoutRule* dropout;  // null without dropout
  bool stream;                 // whether the output is to go around the caches
};

struct ConcatEluKernels {
  // With dropout, `first` is even.
  using Run = void (*)(const ConcatEluArrays&, int64_t first, int64_t rows);
  Run forward[kDtypes], backward[kDtypes];
};

VFLOW_DECLARE_KERNELS(const ConcatEluKernels& concat_elu_kernels())

}  // namespace vflow
