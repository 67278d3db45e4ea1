// exp, expm1, log and tanh as straight-line arithmetic, for one number or a SIMD vector of them (GCC/Clang
// vector types), within 2 ulp where the operations use them. NaN goes through.
//
// Own polynomials instead of a vector library: they inline into the kernels' loops, so that everything
// between two of them stays in registers. CUDA puts what its devices do faster in their place (cuda/math.h).
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
#define VFLOW_INLINE __device__ __forceinline__
#define VFLOW_UNROLL _Pragma("unroll 8")
#else
#define VFLOW_INLINE inline __attribute__((always_inline))
#define VFLOW_UNROLL
#endif

namespace vflow::VFLOW_TARGET {

// A type of numbers: its scalar, the integers of the same width, and the facts of its format.
template <class V>
struct Format;

inline constexpr double kLn2 = 0.69314718055994531, kLog2E = 1.4426950408889634;

template <class V>
VFLOW_INLINE V splat(double value) {
  return V{} + static_cast<typename Format<V>::Scalar>(value);
}

// The polynomial in x with these coefficients, that of the lowest power first.
template <class V>
VFLOW_INLINE V polynomial(V, double last) {
  return splat<V>(last);
}
template <class V, class... Rest>
VFLOW_INLINE V polynomial(V x, double first, Rest... rest) {
  return polynomial(x, rest...) * x + splat<V>(first);
}

// The polynomial whose coefficients are these times factor, factor unit, factor unit^2, ...
template <class V>
VFLOW_INLINE V scaled_polynomial(V, double, double factor, double last) {
  return splat<V>(factor * last);
}
template <class V, class... Rest>
VFLOW_INLINE V scaled_polynomial(V x, double unit, double factor, double first, Rest... rest) {
  return scaled_polynomial(x, unit, factor * unit, rest...) * x + splat<V>(factor * first);
}

struct Float32 {
  using Scalar = float;
  static constexpr int mantissa_bits = 23;
  static constexpr int32_t one = 0x3f800000, root_half = 0x3f3504f3, magic_bits = 0x4b400000,
                           all_but_sign = 0x7fffffff;
  static constexpr float magic = 0x1.8p23f;  // adding it rounds to an integer, in the low bits
  static constexpr float ln2_high = 0x1.62e4p-1f, ln2_low = 0x1.7f7d1cp-20f;
  static constexpr float exp_least = -87.0f, exp_most = 88.0f;
  static constexpr float epsilon = 0x1p-23f, largest = 0x1.fffffep127f, small = 1e-20f, huge = 1e18f;

  // The minimax polynomials of exp, log and tanh, beyond their first terms; that of exp at `unit` r, times
  // `factor`.
  template <class V>
  static VFLOW_INLINE V exp_tail(V r, double unit = 1, double factor = 1) {
    return scaled_polynomial(r, unit, factor, 0.49999993447796486827, 0.16666520631709496887,
                             0.041668388045313996659, 0.0083687168797281399469, 0.0013814598646664034453);
  }
  template <class V>
  static VFLOW_INLINE V log_tail(V s2) {
    return polynomial(s2, 0.66666776448652691391, 0.39977532380143308681, 0.29871996858548021285);
  }
  template <class V>
  static VFLOW_INLINE V tanh_tail(V x2) {
    return polynomial(x2, -0.33333317532890404749, 0.13332585139660542899, -0.053852196340931969701,
                      0.021071177702391994402, -0.0062734855968179424043);
  }
};

struct Float64 {
  using Scalar = double;
  static constexpr int mantissa_bits = 52;
  static constexpr int64_t one = 0x3ff0000000000000, root_half = 0x3fe6a09e667f3bcd,
                           magic_bits = 0x4338000000000000, all_but_sign = 0x7fffffffffffffff;
  static constexpr double magic = 0x1.8p52;
  static constexpr double ln2_high = 0x1.62e42fefap-1, ln2_low = 0x1.cf79abc9e3b3ap-40;
  static constexpr double exp_least = -708.0, exp_most = 709.0;
  static constexpr double epsilon = 0x1p-52, largest = 0x1.fffffffffffffp1023, small = 1e-200, huge = 1e150;

  template <class V>
  static VFLOW_INLINE V exp_tail(V r, double unit = 1, double factor = 1) {
    return scaled_polynomial(r, unit, factor, 0.49999999999999999806, 0.16666666666666712896,
                             0.041666666666667031289, 0.0083333333333041190254, 0.0013888888888699584877,
                             0.00019841269920390118738, 2.4801587702068536117e-5, 2.7557215001241294262e-6,
                             2.7556941016483940586e-7, 2.5118061259024378113e-8, 2.1020529147971622699e-9);
  }
  template <class V>
  static VFLOW_INLINE V log_tail(V s2) {
    return polynomial(s2, 0.6666666666666666097, 0.40000000000006251339, 0.28571428569084479314,
                      0.22222222647006712174, 0.18181775648778162409, 0.15387091487571717558,
                      0.13250101684761401986, 0.13251478703291524433);
  }
  template <class V>
  static VFLOW_INLINE V tanh_tail(V x2) {
    return polynomial(x2, -0.33333333333333298284, 0.1333333333332659796, -0.05396825396374695576,
                      0.021869488385453879875, -0.0088632325946709773166, 0.003592091960171014721,
                      -0.0014555423811812329718, 0.00058844252487659994557, -0.00023337644796329362195,
                      0.000083308931426832614396, -0.000019489936114634486262);
  }
};

template <>
struct Format<float> : Float32 {
  using Bits = int32_t;
};
template <>
struct Format<double> : Float64 {
  using Bits = int64_t;
};

template <class To, class From>
VFLOW_INLINE To bits_as(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  memcpy(&to, &from, sizeof(to));
  return to;
}

// What processors have an instruction for and C++ has no word; simd.h has these for vectors.
template <class V>
struct Instructions {
  static VFLOW_INLINE V larger(V a, V b) { return a > b ? a : b; }
  static VFLOW_INLINE V smaller(V a, V b) { return a < b ? a : b; }
};

// The larger and the smaller of two numbers; b where either is NaN.
template <class V>
VFLOW_INLINE V larger(V a, V b) {
  return Instructions<V>::larger(a, b);
}
template <class V>
VFLOW_INLINE V smaller(V a, V b) {
  return Instructions<V>::smaller(a, b);
}
template <class V>
VFLOW_INLINE V clamp(V low, V x, V high) {
  return smaller(high, larger(low, x));
}

template <class V>
VFLOW_INLINE V magnitude(V a) {
  using Bits = typename Format<V>::Bits;
  return bits_as<V>(bits_as<Bits>(a) & (Bits{} + Format<V>::all_but_sign));
}

// Whether any lane of a comparison's result is true.
template <class Condition>
struct Lanes {
  static VFLOW_INLINE bool any(Condition condition) { return condition; }
};
template <class Condition>
VFLOW_INLINE bool any(Condition condition) {
  return Lanes<Condition>::any(condition);
}

// x = n ln 2 + r with |r| <= ln 2 / 2: 2^n, and exp(r) - 1 by a minimax polynomial of relative error (to
// exp r) below 4e-9 in float and 6e-20 in double.
template <class V>
struct ExpParts {
  V power, rest;
};

template <class V>
VFLOW_INLINE ExpParts<V> exp_parts(V x) {
  using F = Format<V>;
  using Bits = typename F::Bits;
  const V shifted = x * splat<V>(kLog2E) + splat<V>(F::magic);
  const V n = shifted - splat<V>(F::magic);
  const V r = (x - n * splat<V>(F::ln2_high)) - n * splat<V>(F::ln2_low);
  const V tail = F::exp_tail(r);
  const Bits power = (bits_as<Bits>(shifted) << F::mantissa_bits) + F::one;
  return {bits_as<V>(power), r + r * r * tail};
}

template <class V>
VFLOW_INLINE V exp_inside(V x) {
  const ExpParts<V> parts = exp_parts(x);
  return parts.power * parts.rest + parts.power;
}

// exp(x), saturating: what underflows is tiny instead of zero. exp_bounded is for an x, exp_minus gives
// exp(-x) of an x, known not to overflow.
template <class V>
VFLOW_INLINE V exp(V x) {
  return exp_inside(clamp(splat<V>(Format<V>::exp_least), x, splat<V>(Format<V>::exp_most)));
}
template <class V>
VFLOW_INLINE V exp_bounded(V x) {
  return exp_inside(larger(splat<V>(Format<V>::exp_least), x));
}
template <class V>
VFLOW_INLINE V exp_minus(V x) {
  return exp_inside(-smaller(splat<V>(-Format<V>::exp_least), x));
}

// 2^x of |x| <= 1/2, by the polynomial of exp.
template <class V>
VFLOW_INLINE V exp2_near_zero(V x) {
  return (Format<V>::exp_tail(x, kLn2, kLn2 * kLn2) * x + splat<V>(kLn2)) * x + splat<V>(1);
}

// exp(x) of an x that has been rounded, which does more to exp(x) than an exp whose error grows with |x|, and
// is known not to overflow; what underflows may become 0.
template <class V>
VFLOW_INLINE V exp_of_rounded(V x) {
  using F = Format<V>;
  using Bits = typename F::Bits;
  const V y = larger(splat<V>(F::exp_least), x) * splat<V>(kLog2E);
  const V shifted = y + splat<V>(F::magic), n = shifted - splat<V>(F::magic);
  return bits_as<V>((bits_as<Bits>(shifted) << F::mantissa_bits) + F::one) * exp2_near_zero(y - n);
}

// exp(x) - 1 of an x known not to overflow.
template <class V>
VFLOW_INLINE V expm1_bounded(V x) {
  const ExpParts<V> parts = exp_parts(larger(splat<V>(Format<V>::exp_least), x));
  return parts.power * parts.rest + (parts.power - splat<V>(1));
}

// log(x) of a positive normal x: x = 2^e m, m within [sqrt(1/2), sqrt(2)), and
// log m = 2 artanh s, s = (m - 1) / (m + 1), by a minimax polynomial in s^2.
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
  const V tail = F::log_tail(s2);
  // 2 s = f - s f, and f is exact.
  const V low = exponent * splat<V>(F::ln2_low) + s * (s2 * tail - f);
  return exponent * splat<V>(F::ln2_high) + (f + low) + (x - x);  // x - x: NaN stays NaN
}

// A minimax polynomial near zero, 1 - 2 s / (1 + s) with s = exp(-2 |x|) further out.
template <class V>
VFLOW_INLINE V tanh(V x) {
  using F = Format<V>;
  const V one = splat<V>(1), two = splat<V>(2), distance = magnitude(x), x2 = x * x;
  const V tail = F::tanh_tail(x2);
  const V near = x + x * x2 * tail;
  const V s = exp_minus(two * distance), far = one - two * s / (one + s);
  return distance < splat<V>(0.55) ? near : (x < V{} ? -far : far);
}

// sigmoid(z) and sigmoid(-z), each with its full accuracy, saturating at exp(-|z|) = 1e-38 or 1e-308.
template <class V>
struct Sigmoids {
  V below, above;

  VFLOW_INLINE explicit Sigmoids(V z) {
    const V most = splat<V>(-Format<V>::exp_least);
    const V odds = exp_inside(-clamp(-most, z, most));
    below = splat<V>(1) / (splat<V>(1) + odds);
    above = odds * below;
  }
};

}  // namespace vflow::VFLOW_TARGET
