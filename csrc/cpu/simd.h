// The SIMD vector of the instruction set being compiled for, and how rows become vectors.
#pragma once

#include <stdint.h>
#include <string.h>

#include "../common/math.h"

#if defined(__AVX512F__)
#define VFLOW_VECTOR_BYTES 64
#elif defined(__AVX__)
#define VFLOW_VECTOR_BYTES 32
#else
#define VFLOW_VECTOR_BYTES 16
#endif

namespace vflow::VFLOW_TARGET {

typedef float FloatVector __attribute__((vector_size(VFLOW_VECTOR_BYTES)));
typedef double DoubleVector __attribute__((vector_size(VFLOW_VECTOR_BYTES)));
typedef int32_t Int32Vector __attribute__((vector_size(VFLOW_VECTOR_BYTES)));
typedef int64_t Int64Vector __attribute__((vector_size(VFLOW_VECTOR_BYTES)));

template <>
struct Format<FloatVector> : Float32 {
  using Bits = Int32Vector;
};
template <>
struct Format<DoubleVector> : Float64 {
  using Bits = Int64Vector;
};

template <class T>
struct Simd;
template <>
struct Simd<float> {
  using V = FloatVector;
};
template <>
struct Simd<double> {
  using V = DoubleVector;
};

template <class T>
inline constexpr int64_t kLanes = VFLOW_VECTOR_BYTES / sizeof(T);

// Transposes kLanes vectors: each round interleaves the first half of them with the second, and
// log2(kLanes) such perfect shuffles of the 2 log2(kLanes) index bits swap row and column.
template <class V, int64_t lanes>
VFLOW_INLINE void transpose(V (&rows)[lanes]) {
  typename Format<V>::Bits low, high;
  for (int64_t i = 0; i < lanes; ++i) {
    low[i] = i / 2 + (i % 2) * lanes;
    high[i] = low[i] + lanes / 2;
  }
  for (int64_t round = 1; round < lanes; round *= 2) {
    V next[lanes];
    for (int64_t i = 0; i < lanes / 2; ++i) {
      next[2 * i] = __builtin_shuffle(rows[i], rows[i + lanes / 2], low);
      next[2 * i + 1] = __builtin_shuffle(rows[i], rows[i + lanes / 2], high);
    }
    for (int64_t i = 0; i < lanes; ++i) rows[i] = next[i];
  }
}

// Columns of kLanes rows of `width` numbers: columns[j][lane] = rows[lane * width + j].
template <class T>
VFLOW_INLINE void load_columns(const T* rows, int64_t width, T* columns) {
  using V = typename Simd<T>::V;
  constexpr int64_t lanes = kLanes<T>;
  int64_t j = 0;
#if defined(__GNUC__) && !defined(__clang__)
  for (; j + lanes <= width; j += lanes) {
    V block[lanes];
    for (int64_t lane = 0; lane < lanes; ++lane) memcpy(&block[lane], rows + lane * width + j, sizeof(V));
    transpose(block);
    for (int64_t i = 0; i < lanes; ++i) memcpy(columns + (j + i) * lanes, &block[i], sizeof(V));
  }
#endif
  for (int64_t lane = 0; lane < lanes; ++lane)
    for (int64_t rest = j; rest < width; ++rest) columns[rest * lanes + lane] = rows[lane * width + rest];
}

}  // namespace vflow::VFLOW_TARGET
