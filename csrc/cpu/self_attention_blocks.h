// Blocks of scores, and the room that a head's numbers have: what both passes of self_attention share.
#pragma once

#include "columns.h"
#include "simd.h"

namespace vflow::VFLOW_TARGET {

// A block is kVectors vectors against kRows rows, eight scores for each lane. Each number of a row is fetched
// once for all vectors, which counts where that is an instruction of its own; AVX-512 multiplies by a number
// in memory.
#if VFLOW_VECTOR_BYTES == 64
constexpr int64_t kVectors = 1, kRows = 8;
#else
constexpr int64_t kVectors = 2, kRows = 4;
#endif
constexpr int64_t kQueries = 8;  // of a gradient's rows at a time, in blocks of kRows

template <class S>
constexpr int64_t kColumns = kVectors * kLanes<S>;

// `positions` rounded up to whole blocks; what is beyond is zero.
template <class S>
constexpr int64_t padded(int64_t positions) {
  constexpr int64_t step = kColumns<S> > kQueries ? kColumns<S> : kQueries;
  return (positions + step - 1) / step * step;
}

// A head of at most this many numbers fills half a vector; vectors of that size then take its rows.
template <class S>
constexpr int64_t kHalf = VFLOW_VECTOR_BYTES > 16 ? kLanes<S> / 2 : 0;

// `width` rounded up to whole vectors, or to a half of one.
template <class S>
constexpr int64_t wide_row(int64_t width) {
  if (width <= kHalf<S>) return kHalf<S>;
  return (width + kLanes<S> - 1) / kLanes<S> * kLanes<S>;
}

inline int64_t scratch_bytes(int64_t positions, int64_t width) {
  const int64_t rows = padded<float>(positions);
  return (rows * (4 * width + 2 * wide_row<float>(width) + 2)) * 8 +
         (4 * kVectors + 1) * width * VFLOW_VECTOR_BYTES;
}

// Where a head keeps its things, from the scratch on.
template <class S>
struct Room {
  Vector<S>*columns[2], *sums[2];  // [kVectors, width] each
  Vector<S>* rows;                 // kLanes rows [width]
  Number<S>*q, *k, *v, *grad;      // [positions, width], packed
  Number<S>*wide_k, *grad_q;       // [positions, wide_row]
  Number<S>*log_total, *along;     // [positions]

  Room(void* scratch, int64_t positions, int64_t width) {
    auto* vectors = static_cast<Vector<S>*>(scratch);
    const int64_t block = kVectors * width, size = padded<S>(positions) * width;
    columns[0] = vectors, columns[1] = vectors + block;
    sums[0] = vectors + 2 * block, sums[1] = vectors + 3 * block;
    rows = vectors + 4 * block;
    q = reinterpret_cast<Number<S>*>(rows + width);
    k = q + size, v = k + size, grad = v + size;
    const int64_t wide = padded<S>(positions) * wide_row<S>(width);
    wide_k = grad + size, grad_q = wide_k + wide;
    log_total = grad_q + wide, along = log_total + padded<S>(positions);
  }
};

// Rows `stride` apart -> rows side by side, times `factor`.
template <class S>
VFLOW_INLINE void pack(const S* from, int64_t positions, int64_t stride, int64_t width, Number<S> factor,
                       Number<S>* to) {
  for (int64_t i = 0; i < positions; ++i)
    for (int64_t j = 0; j < width; ++j) to[i * width + j] = widen(from[i * stride + j]) * factor;
  for (int64_t i = positions * width; i < padded<S>(positions) * width; ++i) to[i] = 0;
}

// Packed rows -> rows of whole vectors, zero beyond.
template <class S>
VFLOW_INLINE void pad(const Number<S>* from, int64_t positions, int64_t width, Number<S>* to) {
  const int64_t wide = wide_row<S>(width);
  memset(to, 0, static_cast<size_t>(padded<S>(positions) * wide) * sizeof(Number<S>));
  for (int64_t i = 0; i < positions; ++i)
    memcpy(to + i * wide, from + i * width, static_cast<size_t>(width) * sizeof(Number<S>));
}

// kColumns rows from `rows` on -> kVectors times `width` columns.
template <class S>
VFLOW_INLINE void load_block(const Number<S>* rows, int64_t width, Vector<S>* columns) {
  for (int64_t v = 0; v < kVectors; ++v)
    load_columns<Number<S>>(rows + v * kLanes<S> * width, width, columns + v * width);
}

// Columns of one vector, times `factor` -> the first `count` rows, `stride` apart; the columns are spent.
template <class S>
VFLOW_INLINE void unpack(Vector<S>* columns, Vector<S> factor, int64_t count, int64_t stride, int64_t width,
                         const Room<S>& room, S* to) {
  auto* rows = reinterpret_cast<Number<S>*>(room.rows);
  for (int64_t j = 0; j < width; ++j) columns[j] *= factor;
  store_columns<Number<S>>(columns, width, rows);
  for (int64_t i = 0; i < count; ++i)
    for (int64_t j = 0; j < width; ++j) narrow(rows[i * width + j], to + i * stride + j);
}

template <class V>
using Block = V[kVectors][kRows];

// Not by = {}, which is a memset in memory.
template <class V>
VFLOW_INLINE void clear(Block<V>& block) {
  for (auto& rows : block)
    for (V& row : rows) row = V{};
}

// products[v][r] += the product of row r with each lane of vector v.
template <class V, class C>
VFLOW_INLINE void multiply(const V* columns, const C* rows, int64_t width, Block<V>& products) {
  for (int64_t j = 0; j < width; ++j) {
    V column[kVectors];
    for (int64_t v = 0; v < kVectors; ++v) column[v] = columns[v * width + j];
    for (int64_t r = 0; r < kRows; ++r) {
      const C number = rows[r * width + j];
      for (int64_t v = 0; v < kVectors; ++v) products[v][r] += column[v] * number;
    }
  }
}

// sums[v][j] += the rows' numbers j, each times its weight.
template <class V, class C>
VFLOW_INLINE void accumulate(const Block<V>& weights, const C* rows, int64_t width, V* sums) {
  for (int64_t j = 0; j < width; ++j) {
    V to[kVectors];
    for (int64_t v = 0; v < kVectors; ++v) to[v] = sums[v * width + j];
    for (int64_t r = 0; r < kRows; ++r) {
      const C number = rows[r * width + j];
      for (int64_t v = 0; v < kVectors; ++v) to[v] += weights[v][r] * number;
    }
    for (int64_t v = 0; v < kVectors; ++v) sums[v * width + j] = to[v];
  }
}

// Each of kQueries rows += its weights times kColumns rows of `from`; W is a vector, or half of one.
template <class W, class C, int64_t columns>
VFLOW_INLINE void accumulate_rows(const C (&weights)[kQueries][columns], const C* from, int64_t wide,
                                  C* rows) {
  for (int64_t j = 0; j < wide; j += sizeof(W) / sizeof(C)) {
    W sums[kQueries];
    for (int64_t r = 0; r < kQueries; ++r) sums[r] = load_as<W>(rows + r * wide + j);
    for (int64_t column = 0; column < columns; ++column) {
      const W row = load_as<W>(from + column * wide + j);
      for (int64_t r = 0; r < kQueries; ++r) sums[r] += weights[r][column] * row;
    }
    for (int64_t r = 0; r < kQueries; ++r) store_as(sums[r], rows + r * wide + j);
  }
}

}  // namespace vflow::VFLOW_TARGET
