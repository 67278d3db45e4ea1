// fused(a, b, c) is a * b + c with one rounding: the only way in which a product and a sum become one where
// files are compiled without contraction. Without an instruction for it this calls the C library's fma, which
// is slow and exact.
#pragma once

#include <math.h>

#if defined(__aarch64__)
#include <arm_neon.h>
#endif

#include "simd.h"

namespace vflow::VFLOW_TARGET {

// A number in every lane. Less zero is nothing to compute, plus zero would be: it makes 0 of -0.
VFLOW_INLINE FloatVector broadcast(float number) { return number - FloatVector{}; }

VFLOW_INLINE FloatVector fused(FloatVector a, FloatVector b, FloatVector c) {
#if defined(__FMA__)
  return bits_as<FloatVector>(VFLOW_INTRINSIC(fmadd_ps)(bits_as<FloatRegister>(a), bits_as<FloatRegister>(b),
                                                        bits_as<FloatRegister>(c)));
#elif defined(__aarch64__)
  return bits_as<FloatVector>(
      vfmaq_f32(bits_as<float32x4_t>(c), bits_as<float32x4_t>(a), bits_as<float32x4_t>(b)));
#else
  for (size_t i = 0; i < sizeof(a) / sizeof(a[0]); ++i) c[i] = fmaf(a[i], b[i], c[i]);
  return c;
#endif
}

VFLOW_INLINE DoubleVector fused(DoubleVector a, DoubleVector b, DoubleVector c) {
#if defined(__FMA__)
  return bits_as<DoubleVector>(VFLOW_INTRINSIC(fmadd_pd)(
      bits_as<DoubleRegister>(a), bits_as<DoubleRegister>(b), bits_as<DoubleRegister>(c)));
#elif defined(__aarch64__)
  return bits_as<DoubleVector>(
      vfmaq_f64(bits_as<float64x2_t>(c), bits_as<float64x2_t>(a), bits_as<float64x2_t>(b)));
#else
  for (size_t i = 0; i < sizeof(a) / sizeof(a[0]); ++i) c[i] = fma(a[i], b[i], c[i]);
  return c;
#endif
}

}  // namespace vflow::VFLOW_TARGET
