// exp, log and tanh as straight-line arithmetic, for one number or a SIMD vector of them (GCC/Clang
// vector types), within about 2 ulp where the transform uses them. NaN goes through.
//
// Everything is in namespace VFLOW_TARGET: the same source is compiled for several instruction sets into
// one library, and the linker must not merge their inline functions.
#pragma once

#include <stdint.h>
#include <string.h>

#ifndef VFLOW_TARGET
#define VFLOW_TARGET generic
#endif

#if defined(__CUDACC__)
#define VFLOW_INLINE __host__ __device__ inline
#else
#define VFLOW_INLINE inline __attribute__((always_inline))
#endif

namespace vflow::VFLOW_TARGET {

// A type of numbers: its scalar, the integers of the same width, and the facts of its format.
template <class V>
struct Format;

struct Float32 {
  using Scalar = float;
  static constexpr int mantissa_bits = 23, exp_terms = 7, log_terms = 5;
  static constexpr int32_t one = 0x3f800000, root_half = 0x3f3504f3, magic_bits = 0x4b400000;
  static constexpr float magic = 0x1.8p23f;  // adding it rounds to an integer, in the low bits
  static constexpr float ln2_high = 0x1.62e4p-1f, ln2_low = 0x1.7f7d1cp-20f;
  static constexpr float exp_least = -87.0f, exp_most = 88.0f, lowest = -3.0e38f;
};

struct Float64 {
  using Scalar = double;
  static constexpr int mantissa_bits = 52, exp_terms = 13, log_terms = 11;
  static constexpr int64_t one = 0x3ff0000000000000, root_half = 0x3fe6a09e667f3bcd,
                           magic_bits = 0x4338000000000000;
  static constexpr double magic = 0x1.8p52;
  static constexpr double ln2_high = 0x1.62e42fefap-1, ln2_low = 0x1.cf79abc9e3b3ap-40;
  static constexpr double exp_least = -708.0, exp_most = 709.0, lowest = -1.0e308;
};

template <>
struct Format<float> : Float32 {
  using Bits = int32_t;
};
template <>
struct Format<double> : Float64 {
  using Bits = int64_t;
};

template <class V>
VFLOW_INLINE V splat(double value) {
  return V{} + static_cast<typename Format<V>::Scalar>(value);
}

template <class To, class From>
VFLOW_INLINE To bits_as(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  memcpy(&to, &from, sizeof(to));
  return to;
}

template <class V>
VFLOW_INLINE V larger(V a, V b) {
  return a > b ? a : b;
}

template <class V>
VFLOW_INLINE V magnitude(V a) {
  return a < V{} ? -a : a;
}

// exp(x): x = n ln 2 + r, Taylor's series in r (|r| <= ln 2 / 2). Saturates at the format's ends, so
// that what underflows is tiny instead of zero.
template <class V>
VFLOW_INLINE V exp(V x) {
  using F = Format<V>;
  using Bits = typename F::Bits;
  const V least = splat<V>(F::exp_least), most = splat<V>(F::exp_most);
  x = x < least ? least : x;
  x = x > most ? most : x;
  const V shifted = x * splat<V>(1.4426950408889634) + splat<V>(F::magic);
  const V n = shifted - splat<V>(F::magic);
  const V r = (x - n * splat<V>(F::ln2_high)) - n * splat<V>(F::ln2_low);
  double factorial = 1;
  for (int i = 2; i <= F::exp_terms; ++i) factorial *= i;
  V sum = splat<V>(1 / factorial);
  for (int i = F::exp_terms; i > 0; --i) {
    factorial /= i;
    sum = sum * r + splat<V>(1 / factorial);
  }
  const Bits power = (bits_as<Bits>(shifted) << F::mantissa_bits) + F::one;
  return sum * bits_as<V>(power);
}

// log(x) of a positive normal x: x = 2^e m, m within [sqrt(1/2), sqrt(2)), and
// log m = 2 artanh s, s = (m - 1) / (m + 1), by its series.
template <class V>
VFLOW_INLINE V log(V x) {
  using F = Format<V>;
  using Bits = typename F::Bits;
  const Bits bits = bits_as<Bits>(x);
  const Bits e = (bits - F::root_half) >> F::mantissa_bits;
  const V m = bits_as<V>(bits - (e << F::mantissa_bits));
  const V exponent = bits_as<V>(e + F::magic_bits) - splat<V>(F::magic);
  const V f = m - splat<V>(1);
  const V s = f / (m + splat<V>(1)), s2 = s * s;
  V tail = splat<V>(2.0 / (2 * F::log_terms + 1));
  for (int i = F::log_terms - 1; i > 0; --i) tail = tail * s2 + splat<V>(2.0 / (2 * i + 1));
  // 2 s = f - s f, and f is exact.
  const V low = exponent * splat<V>(F::ln2_low) + s * (s2 * tail - f);
  return exponent * splat<V>(F::ln2_high) + (f + low) + (x - x);  // x - x: NaN stays NaN
}

template <class V>
VFLOW_INLINE V tanh(V x) {
  const V t = exp(splat<V>(-2) * magnitude(x)), one = splat<V>(1);
  const V value = (one - t) / (one + t);
  return x < V{} ? -value : value;
}

}  // namespace vflow::VFLOW_TARGET
