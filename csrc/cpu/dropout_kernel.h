// The dropout kernels of one instruction set: a run of rows is the unit of work of a thread.
#pragma once

#include <stdint.h>

#include "arrays.h"
#include "dropout_rule.h"
#include "target.h"

namespace vflow {

struct DropoutArrays {
  const void* x;  // [rows, channels]
  void* y;        // like x
  int64_t channels;
  DropoutRule rule;
  bool stream;  // whether the output is to go around the caches
};

struct DropoutKernels {
  // `first` is a multiple of four.
  using Run = void (*)(const DropoutArrays&, int64_t first, int64_t rows);
  Run run[kDtypes];
};

VFLOW_DECLARE_KERNELS(const DropoutKernels& dropout_kernels())

}  // namespace vflow
