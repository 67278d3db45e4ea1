// The kernels of one instruction set for exact elementwise functions and exact triangular maps.
#pragma once

#include <stdint.h>

#include "target.h"

namespace vflow {

constexpr int64_t kLiftRows = 64;  // rows of a block

struct ExactMapsKernels {
  // enum vflow_function -> y [count]
  void (*apply)(int function, const double* x, double* y, int64_t count);
  // Adds to (or, of the inverse, takes from) each of a row's numbers what a triangular matrix makes of those
  // before or after it; `room` is for channels * kLiftRows doubles.
  bool (*lift)(int64_t* rows, const double* matrix, int64_t count, int64_t channels, bool upper, bool inverse,
               double* room);
};

VFLOW_DECLARE_KERNELS(const ExactMapsKernels& exact_maps_kernels())

}  // namespace vflow
