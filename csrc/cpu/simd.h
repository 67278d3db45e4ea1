// The SIMD vector of the instruction set being compiled for, and how numbers in memory become vectors.
//
// A kernel computes in C, float or double; memory holds S, which is C or, for float, BFloat16.
#pragma once

#include <stdint.h>
#include <string.h>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#include "../common/math.h"
#include "arrays.h"

#if defined(__AVX512F__)
#define VFLOW_VECTOR_BYTES 64
#elif defined(__AVX__)
#define VFLOW_VECTOR_BYTES 32
#else
#define VFLOW_VECTOR_BYTES 16
#endif

// For the passes of a long kernel: each gets all registers for itself.
#define VFLOW_NOINLINE __attribute__((noinline))

namespace vflow::VFLOW_TARGET {

typedef float FloatVector __attribute__((vector_size(VFLOW_VECTOR_BYTES)));
typedef double DoubleVector __attribute__((vector_size(VFLOW_VECTOR_BYTES)));
typedef int32_t Int32Vector __attribute__((vector_size(VFLOW_VECTOR_BYTES)));
typedef uint32_t UInt32Vector __attribute__((vector_size(VFLOW_VECTOR_BYTES)));
typedef int64_t Int64Vector __attribute__((vector_size(VFLOW_VECTOR_BYTES)));
typedef uint16_t HalfWidthVector __attribute__((vector_size(VFLOW_VECTOR_BYTES / 2)));

template <>
struct Format<FloatVector> : Float32 {
  using Bits = Int32Vector;
};
template <>
struct Format<DoubleVector> : Float64 {
  using Bits = Int64Vector;
};

// What is computed with, for what is stored.
template <class S>
struct Storage {
  using C = S;
};
template <>
struct Storage<BFloat16> {
  using C = float;
};

template <class C>
struct Simd;
template <>
struct Simd<float> {
  using V = FloatVector;
};
template <>
struct Simd<double> {
  using V = DoubleVector;
};

template <class S>
using Number = typename Storage<S>::C;
template <class S>
using Vector = typename Simd<Number<S>>::V;
template <class S>
inline constexpr int64_t kLanes = VFLOW_VECTOR_BYTES / sizeof(Number<S>);

template <>
struct Lanes<Int64Vector> {
  static VFLOW_INLINE bool any(Int64Vector condition) {
#if defined(__AVX512F__)
    const auto bits = bits_as<__m512i>(condition);
    return _mm512_test_epi64_mask(bits, bits) != 0;
#elif defined(__AVX__)
    return _mm256_movemask_pd(bits_as<__m256d>(condition)) != 0;
#elif defined(__SSE2__)
    return _mm_movemask_epi8(bits_as<__m128i>(condition)) != 0;
#else
    int64_t joined = 0;
    for (int64_t i = 0; i < VFLOW_VECTOR_BYTES / 8; ++i) joined |= condition[i];
    return joined != 0;
#endif
  }
};
#if defined(__clang__) && defined(__LP64__)
// Clang compares doubles to a vector of the other type of 64 bits.
typedef long long ComparedVector __attribute__((vector_size(VFLOW_VECTOR_BYTES)));
template <>
struct Lanes<ComparedVector> {
  static VFLOW_INLINE bool any(ComparedVector condition) {
    return Lanes<Int64Vector>::any(bits_as<Int64Vector>(condition));
  }
};
#endif
template <>
struct Lanes<Int32Vector> {
  static VFLOW_INLINE bool any(Int32Vector condition) {
#if defined(__AVX__) && !defined(__AVX512F__)
    return _mm256_movemask_ps(bits_as<__m256>(condition)) != 0;
#else
    return Lanes<Int64Vector>::any(bits_as<Int64Vector>(condition));
#endif
  }
};

#if defined(__SSE2__)
#if defined(__AVX512F__)
#define VFLOW_INTRINSIC(name) _mm512_##name
typedef __m512 FloatRegister;
typedef __m512d DoubleRegister;
#elif defined(__AVX__)
#define VFLOW_INTRINSIC(name) _mm256_##name
typedef __m256 FloatRegister;
typedef __m256d DoubleRegister;
#else
#define VFLOW_INTRINSIC(name) _mm_##name
typedef __m128 FloatRegister;
typedef __m128d DoubleRegister;
#endif
template <>
struct Instructions<FloatVector> {
  static VFLOW_INLINE FloatVector larger(FloatVector a, FloatVector b) {
    return bits_as<FloatVector>(
        VFLOW_INTRINSIC(max_ps)(bits_as<FloatRegister>(a), bits_as<FloatRegister>(b)));
  }
  static VFLOW_INLINE FloatVector smaller(FloatVector a, FloatVector b) {
    return bits_as<FloatVector>(
        VFLOW_INTRINSIC(min_ps)(bits_as<FloatRegister>(a), bits_as<FloatRegister>(b)));
  }
};
template <>
struct Instructions<DoubleVector> {
  static VFLOW_INLINE DoubleVector larger(DoubleVector a, DoubleVector b) {
    return bits_as<DoubleVector>(
        VFLOW_INTRINSIC(max_pd)(bits_as<DoubleRegister>(a), bits_as<DoubleRegister>(b)));
  }
  static VFLOW_INLINE DoubleVector smaller(DoubleVector a, DoubleVector b) {
    return bits_as<DoubleVector>(
        VFLOW_INTRINSIC(min_pd)(bits_as<DoubleRegister>(a), bits_as<DoubleRegister>(b)));
  }
};
#endif

#if defined(__AVX512F__)
// Which rounds in one instruction, and scales by a power of 2 in another.
template <>
VFLOW_INLINE FloatVector exp_of_rounded(FloatVector x) {
  const FloatVector y = x * splat<FloatVector>(kLog2E);
  const auto n = bits_as<FloatVector>(
      _mm512_roundscale_ps(bits_as<__m512>(y), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  const auto power = bits_as<__m512>(exp2_near_zero(y - n));
  return bits_as<FloatVector>(_mm512_scalef_ps(power, bits_as<__m512>(n)));
}
#endif

VFLOW_INLINE float widen(float number) { return number; }
VFLOW_INLINE double widen(double number) { return number; }
VFLOW_INLINE float widen(BFloat16 number) { return bits_as<float>(static_cast<uint32_t>(number.bits) << 16); }

VFLOW_INLINE void narrow(float number, float* to) { *to = number; }
VFLOW_INLINE void narrow(double number, double* to) { *to = number; }
VFLOW_INLINE void narrow(float number, BFloat16* to) {
  const uint32_t bits = bits_as<uint32_t>(number);
  const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;  // to nearest, ties to even
  to->bits = static_cast<uint16_t>(number == number ? rounded : (bits >> 16) | 0x40);
}

// kLanes numbers side by side in memory.
VFLOW_INLINE FloatVector load(const float* from) {
  FloatVector to;
  memcpy(&to, from, sizeof(to));
  return to;
}
VFLOW_INLINE DoubleVector load(const double* from) {
  DoubleVector to;
  memcpy(&to, from, sizeof(to));
  return to;
}
VFLOW_INLINE FloatVector load(const BFloat16* from) {
  HalfWidthVector halves;
  memcpy(&halves, from, sizeof(halves));
  return bits_as<FloatVector>(__builtin_convertvector(halves, UInt32Vector) << 16);
}

VFLOW_INLINE void store(FloatVector from, float* to) { memcpy(to, &from, sizeof(from)); }
VFLOW_INLINE void store(DoubleVector from, double* to) { memcpy(to, &from, sizeof(from)); }
VFLOW_INLINE void store(FloatVector from, BFloat16* to) {
  const UInt32Vector bits = bits_as<UInt32Vector>(from);
  const UInt32Vector rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  const UInt32Vector chosen = from == from ? rounded : (bits >> 16) | 0x40;
  const HalfWidthVector halves = __builtin_convertvector(chosen, HalfWidthVector);
  memcpy(to, &halves, sizeof(halves));
}

// Any vector, from memory and to it. By value: a copy from memory to an element of an array of vectors goes
// by way of narrower registers, and waits where the whole is read at once.
template <class V, class S>
VFLOW_INLINE V load_as(const S* from) {
  V to;
  memcpy(&to, from, sizeof(to));
  return to;
}
template <class V, class S>
VFLOW_INLINE void store_as(V from, S* to) {
  memcpy(to, &from, sizeof(from));
}

// Asks for memory ahead of its use. The hardware does so too, but not across pages.
VFLOW_INLINE void prefetch(const void* memory, int64_t bytes) {
  const char* line = static_cast<const char*>(memory);
  for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(line + i, 0, 2);
}

// Copies around the caches, for what is too large to be found there later: memory is written without being
// read first. Both must be aligned to a vector.
VFLOW_INLINE void stream(const void* from, int64_t bytes, void* to) {
#if defined(__SSE2__)
  for (int64_t i = 0; i < bytes; i += VFLOW_VECTOR_BYTES) {
    const auto* source = reinterpret_cast<const FloatRegister*>(static_cast<const char*>(from) + i);
    VFLOW_INTRINSIC(stream_ps)(reinterpret_cast<float*>(static_cast<char*>(to) + i),
                               bits_as<FloatRegister>(*source));
  }
#else
  memcpy(to, from, static_cast<size_t>(bytes));
#endif
}

// kLanes numbers, to an address that is a multiple of their size.
template <class V, class S>
VFLOW_INLINE void stream(V from, S* to) {
#if defined(__SSE2__)
  if constexpr (sizeof(V) == kLanes<S> * sizeof(S)) {
    VFLOW_INTRINSIC(stream_ps)(reinterpret_cast<float*>(to), bits_as<FloatRegister>(from));
    return;
  }
#endif
  store(from, to);
}

// Makes streamed numbers visible to other threads.
VFLOW_INLINE void finish_streams() {
#if defined(__SSE2__)
  _mm_sfence();
#endif
}

// Reads the numbers of a RowsView a few at a time.
template <class S>
class Rows {
 public:
  VFLOW_INLINE Rows(const RowsView& view, int64_t start)
      : row_(static_cast<const S*>(view.data) + start / view.length * view.stride),
        column_(start % view.length),
        length_(view.length),
        stride_(view.stride) {}

  // The next `count` numbers, at most kLanes; lanes to spare repeat the first.
  VFLOW_INLINE Vector<S> next(int64_t count) {
    Vector<S> numbers;
    if (count == kLanes<S> && column_ + count <= length_) {
      numbers = load(row_ + column_);
      advance(count);
      return numbers;
    }
    Number<S> lanes[kLanes<S>];
    const Number<S> first = widen(row_[column_]);
    for (int64_t lane = 0; lane < kLanes<S>; ++lane) {
      lanes[lane] = lane < count ? widen(row_[column_]) : first;
      if (lane < count) advance(1);
    }
    memcpy(&numbers, lanes, sizeof(numbers));
    return numbers;
  }

 private:
  VFLOW_INLINE void advance(int64_t count) {
    column_ += count;
    if (column_ >= length_) {
      column_ = 0;
      row_ += stride_;
    }
  }

  const S* row_;
  int64_t column_, length_, stride_;
};

}  // namespace vflow::VFLOW_TARGET
