// float16 on the CPU.
#pragma once

struct __half {
  _Float16 number;
};

inline float __half2float(__half x) { return static_cast<float>(x.number); }
inline __half __float2half_rn(float x) { return {static_cast<_Float16>(x)}; }
