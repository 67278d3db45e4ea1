// The C ABI of the native libraries: pointers, sizes, thread counts -> error code.
//
// Everything is row-major and contiguous. A library never throws, prints or keeps state between calls,
// and writes nothing when it returns an error. Change VFLOW_ABI_VERSION (and ABI_VERSION of
// vflow/ops/native.py) with any change of a signature or of the meaning of an argument.
#pragma once

#include <stdint.h>

#define VFLOW_ABI_VERSION 1

#if defined(_WIN32)
#define VFLOW_API extern "C" __declspec(dllexport)
#else
#define VFLOW_API extern "C" __attribute__((visibility("default")))
#endif

enum vflow_error {
  VFLOW_OK = 0,
  VFLOW_ERROR_NULL_POINTER = 1,
  VFLOW_ERROR_NEGATIVE_SIZE = 2,
  VFLOW_ERROR_COMPONENTS = 3,   // fewer than one mixture component
  VFLOW_ERROR_OVERFLOW = 4,     // the sizes' product does not fit in 63 bits
  VFLOW_ERROR_THREADS = 5,      // fewer than one thread
  VFLOW_ERROR_OUT_OF_MEMORY = 6,
};

// VFLOW_ABI_VERSION of the library.
VFLOW_API int vflow_abi_version(void);

// What a code of enum vflow_error means, in a few words; never null.
VFLOW_API const char* vflow_error_message(int error);

// The instruction set the kernels run on here, e.g. "x86-64-v3".
VFLOW_API const char* vflow_cpu_target(void);

// Mixture-of-logistics coupling transform of x [batch, elements] by params
// [batch, elements, 2 + 3 components] -> y [batch, elements], logdet [batch].
// The result does not depend on `threads`.
VFLOW_API int vflow_cpu_mixlogistic_f32(const float* x, const float* params, float* y,
                                        float* logdet, int64_t batch, int64_t elements,
                                        int64_t components, int threads);
VFLOW_API int vflow_cpu_mixlogistic_f64(const double* x, const double* params, double* y,
                                        double* logdet, int64_t batch, int64_t elements,
                                        int64_t components, int threads);
