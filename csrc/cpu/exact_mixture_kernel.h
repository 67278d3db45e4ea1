// The exact_mixture kernels of one instruction set: a run of elements is the unit of work of a thread.
#pragma once

#include <stdint.h>

#include "target.h"

namespace vflow {

struct ExactMixtureArrays {
  const int64_t* input;           // x, or y where its cell is to be found
  const void* params;             // [count, 2 + 3 components]
  int64_t *cell, *lower, *width;  // cell is written only where it is found
  int64_t components;
  int grid, cell_bits;  // bits after the point of a number, and of them those within a cell
};

struct ExactMixtureKernels {
  int64_t (*scratch_bytes)(int64_t components);
  // [float or double][squash]
  using Run = void (*)(const ExactMixtureArrays&, int64_t first, int64_t count, void* scratch);
  Run cells[2][2], find[2][2];
};

VFLOW_DECLARE_KERNELS(const ExactMixtureKernels& exact_mixture_kernels())

}  // namespace vflow
