// Dropout's factors for a SIMD vector of columns in each of four rows, which share their Philox counters.
#pragma once

#include <stdint.h>

#include "../common/philox.h"
#include "dropout_rule.h"
#include "simd.h"

namespace vflow::VFLOW_TARGET {

typedef uint64_t UInt64Vector __attribute__((vector_size(VFLOW_VECTOR_BYTES)));

#if defined(__SSE2__)
#if defined(__AVX512F__)
typedef __m512i IntegerRegister;
#define VFLOW_MULTIPLY_WORDS _mm512_mul_epu32
#elif defined(__AVX2__)
typedef __m256i IntegerRegister;
#define VFLOW_MULTIPLY_WORDS _mm256_mul_epu32
#elif !defined(__AVX__)
typedef __m128i IntegerRegister;
#define VFLOW_MULTIPLY_WORDS _mm_mul_epu32
#endif
#endif
#if defined(VFLOW_MULTIPLY_WORDS)
template <>
struct WideProduct<UInt64Vector> {
  static VFLOW_INLINE UInt64Vector of(UInt64Vector a, UInt64Vector b) {
    return bits_as<UInt64Vector>(
        VFLOW_MULTIPLY_WORDS(bits_as<IntegerRegister>(a), bits_as<IntegerRegister>(b)));
  }
};
#endif

// Counters start, start + step, ... -> four words each, in the low halves.
VFLOW_INLINE void words_of(const DropoutRule& rule, int64_t start, int64_t step, UInt64Vector (&words)[4]) {
  UInt64Vector index{};
  for (int64_t lane = 0; lane < VFLOW_VECTOR_BYTES / 8; ++lane)
    index[lane] = static_cast<uint64_t>(lane * step);
  words[0] = index + static_cast<uint64_t>(start);
  words[1] = words[0] >> 32;
  words[2] = words[3] = UInt64Vector{};
  philox4x32_10(words, rule.key[0], rule.key[1]);
}

// The factors of the four rows at the columns whose counters begin with `counter`.
VFLOW_INLINE void dropout_factors(const DropoutRule& rule, int64_t counter, FloatVector (&factors)[4]) {
  UInt64Vector even[4], odd[4];
  words_of(rule, counter, 2, even);
  words_of(rule, counter + 1, 2, odd);
  for (int row = 0; row < 4; ++row) {
    // Of two lanes of 32 bits, the one that is the low half of 64 comes first.
    const auto words = bits_as<UInt32Vector>((even[row] & 0xffffffffu) | (odd[row] << 32));
    const auto kept = words >= UInt32Vector{} + rule.threshold;
    factors[row] = kept ? splat<FloatVector>(rule.scale) : FloatVector{};
  }
}
VFLOW_INLINE void dropout_factors(const DropoutRule& rule, int64_t counter, DoubleVector (&factors)[4]) {
  UInt64Vector words[4];
  words_of(rule, counter, 1, words);
  for (int row = 0; row < 4; ++row) {
    const auto kept = (words[row] & 0xffffffffu) >= UInt64Vector{} + rule.threshold;
    factors[row] = kept ? splat<DoubleVector>(rule.scale) : DoubleVector{};
  }
}

}  // namespace vflow::VFLOW_TARGET
