// What a mixture of logistics needs of mathematics in double precision: 2^x and log, each step one rounding
// in one order, with fused multiply-adds. Good to 3e-14, a ten-thousandth of the grid that their results are
// rounded to; what is better takes a quarter more of time.
#pragma once

#include "fused.h"

namespace vflow::VFLOW_TARGET {

template <class V>
VFLOW_INLINE V fused_polynomial(V, double last) {
  return splat<V>(last);
}
template <class V, class... Rest>
VFLOW_INLINE V fused_polynomial(V x, double first, Rest... rest) {
  return fused(fused_polynomial(x, rest...), x, splat<V>(first));
}

// 2^x for an x within +-1000; NaN goes through.
VFLOW_INLINE DoubleVector power_of_two(DoubleVector x) {
  using V = DoubleVector;
  using F = Format<V>;
  const V shifted = x + splat<V>(F::magic), r = x - (shifted - splat<V>(F::magic));
  const V power = bits_as<V>((bits_as<Int64Vector>(shifted) << F::mantissa_bits) + F::one);
  const V slope =
      fused_polynomial(r, 0.69314718055994700937, 0.24022650695812973096, 0.055504108664542826922,
                       0.0096181291594074416546, 0.0013333558222563909553, 0.00015403455848509526471,
                       0.000015252658992060459963, 1.3255225787728708949e-6, 1.0208692042892572455e-7);
  return fused(power, r * slope, power);
}

// log x of a positive normal x; as log of common/math.h. NaN goes through.
VFLOW_INLINE DoubleVector fused_log(DoubleVector x) {
  using V = DoubleVector;
  using F = Format<V>;
  const Int64Vector bits = bits_as<Int64Vector>(x), e = (bits - F::root_half) >> F::mantissa_bits;
  const V m = bits_as<V>(bits - (e << F::mantissa_bits));
  const V exponent = bits_as<V>(e + F::magic_bits) - splat<V>(F::magic);
  const V s = (m - splat<V>(1)) / (m + splat<V>(1)), s2 = s * s;
  const V tail = fused_polynomial(s2, 0.66666666667384711773, 0.39999998786765549915, 0.28571756349740932658,
                                  0.22191301285392217232, 0.19364360517188179827);
  return fused(exponent, splat<V>(0.69314718055994530942), fused(s * s2, tail, s + s)) + (x - x);
}

}  // namespace vflow::VFLOW_TARGET
