// Rows of numbers in memory as columns in SIMD vectors, and back.
#pragma once

#include <stdint.h>
#include <string.h>

#include "simd.h"

namespace vflow::VFLOW_TARGET {

// Transposes kLanes vectors: each round interleaves the first half of them with the second, and
// log2(kLanes) such perfect shuffles of the 2 log2(kLanes) index bits swap row and column.
template <class V, int64_t lanes>
VFLOW_INLINE void transpose(V (&rows)[lanes]) {
#if defined(__GNUC__) && !defined(__clang__)
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
#else
  for (int64_t i = 0; i < lanes; ++i)
    for (int64_t j = 0; j < i; ++j) {
      const auto number = rows[i][j];
      rows[i][j] = rows[j][i];
      rows[j][i] = number;
    }
#endif
}

// Columns of kLanes rows of `width` numbers, which lie one after the other: columns[j][lane] is
// rows[lane * width + j].
template <class S>
VFLOW_INLINE void load_columns(const S* rows, int64_t width, Vector<S>* columns) {
  constexpr int64_t lanes = kLanes<S>;
  if (width < lanes) {
    // A vector from the start of a row may run on into the next, but not out of the last.
    Vector<S> block[lanes];
    for (int64_t lane = 0; lane < lanes; ++lane) {
      const S* row = rows + lane * width;
      S padded[lanes];
      if ((lanes - lane) * width < lanes) row = static_cast<S*>(memcpy(padded, row, width * sizeof(S)));
      block[lane] = load(row);
    }
    transpose(block);
    for (int64_t j = 0; j < width; ++j) columns[j] = block[j];
    return;
  }
  // The last block begins early enough to end with the row.
  for (int64_t j = 0; j < width; j += lanes) {
    const int64_t first = j + lanes <= width ? j : width - lanes;
    Vector<S> block[lanes];
    for (int64_t lane = 0; lane < lanes; ++lane) block[lane] = load(rows + lane * width + first);
    transpose(block);
    for (int64_t i = 0; i < lanes; ++i) columns[first + i] = block[i];
  }
}

// The reverse of load_columns.
template <class S>
VFLOW_INLINE void store_columns(const Vector<S>* columns, int64_t width, S* rows) {
  constexpr int64_t lanes = kLanes<S>;
  if (width < lanes) {
    Vector<S> block[lanes]{};
    for (int64_t j = 0; j < width; ++j) block[j] = columns[j];
    transpose(block);
    S row[lanes];
    for (int64_t lane = 0; lane < lanes; ++lane) {
      store(block[lane], row);
      memcpy(rows + lane * width, row, static_cast<size_t>(width) * sizeof(S));
    }
    return;
  }
  for (int64_t j = 0; j < width; j += lanes) {
    const int64_t first = j + lanes <= width ? j : width - lanes;
    Vector<S> block[lanes];
    for (int64_t i = 0; i < lanes; ++i) block[i] = columns[first + i];
    transpose(block);
    for (int64_t lane = 0; lane < lanes; ++lane) store(block[lane], rows + lane * width + first);
  }
}

}  // namespace vflow::VFLOW_TARGET
