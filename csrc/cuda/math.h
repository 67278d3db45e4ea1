// The mathematics of common/ as CUDA devices do it fastest within the operations' error budget.
//
// Where an error cannot grow, exp is the device's power of two (two roundings, and one of the product with
// log2 e, whose effect grows with |x|), and 1 / (1 + odds) its reciprocal, good to a rounding or two. All
// else stays exact: log-scales, whose errors z multiplies, take the polynomial of common/math.h, and division
// and square roots are IEEE. The library is compiled with -ftz=true: numbers below 1.2e-38 count as 0, which
// spares every power of two three instructions of scaling. There is no --use_fast_math.
#pragma once

#include <cuda_runtime.h>

#define VFLOW_TARGET cuda
#include "../common/math.h"

namespace vflow::cuda {

template <>
VFLOW_INLINE float exp_of_rounded<float>(float x) {
  return __expf(x);
}

template <>
VFLOW_INLINE float log<float>(float x) {
  return ::logf(x);
}

template <>
VFLOW_INLINE float tanh<float>(float x) {
  return ::tanhf(x);
}

template <>
struct Sigmoids<float> {
  float below, above;

  VFLOW_INLINE explicit Sigmoids(float z) {
    const float odds = __expf(-fabsf(z)), near = __fdividef(1.0f, 1.0f + odds), far = odds * near;
    below = z < 0 ? far : near;
    above = z < 0 ? near : far;
  }
};

}  // namespace vflow::cuda
