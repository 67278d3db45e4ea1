// Arrays through the kernels' own exp, expm1, log and tanh, for tests/ops/test_native_math.py.
#include "../../csrc/common/math.h"
#include "../../csrc/cpu/simd.h"

using namespace vflow::VFLOW_TARGET;

#define EXPORT(name, type, function)                                                                   \
  extern "C" __attribute__((visibility("default"))) void name(const type* x, type* y, int64_t count) { \
    for (int64_t i = 0; i < count; i += kLanes<type>) store(function(load(x + i)), y + i);             \
  }

EXPORT(exp_f32, float, exp)
EXPORT(exp_f64, double, exp)
EXPORT(expm1_f32, float, expm1_bounded)
EXPORT(expm1_f64, double, expm1_bounded)
EXPORT(log_f32, float, log)
EXPORT(log_f64, double, log)
EXPORT(tanh_f32, float, tanh)
EXPORT(tanh_f64, double, tanh)
