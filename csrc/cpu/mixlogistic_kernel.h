// A run of elements of one image: the unit of work of a thread, compiled once for each instruction set.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace vflow {

constexpr size_t kScratchAlignment = 64;

// Bytes of aligned scratch that a run needs: room for one SIMD vector of elements' parameters.
constexpr int64_t scratch_bytes(int64_t components) { return (2 + 3 * components) * 64; }

// Writes y [count] and returns the sum of the log-derivatives.
template <class T>
using MixlogisticRun = double (*)(const T* x, const T* params, T* y, int64_t count,
                                  int64_t components, void* scratch);

#define VFLOW_DECLARE_TARGET(target)                                                              \
  namespace target {                                                                              \
  double mixlogistic_run(const float*, const float*, float*, int64_t, int64_t, void*);            \
  double mixlogistic_run(const double*, const double*, double*, int64_t, int64_t, void*);         \
  }

VFLOW_DECLARE_TARGET(generic)
VFLOW_DECLARE_TARGET(x86_64_v3)
VFLOW_DECLARE_TARGET(x86_64_v4)

}  // namespace vflow
