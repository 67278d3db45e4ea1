// Parts of SIMD vectors: numbers that are fewer than a vector holds, sums over lanes, lanes in another order.
#pragma once

#include <stdint.h>
#include <string.h>

#include "simd.h"

namespace vflow::VFLOW_TARGET {

// The first `count` numbers side by side in memory; the other lanes are zero.
template <class S>
VFLOW_INLINE Vector<S> load_some(const S* from, int64_t count) {
  if (count >= kLanes<S>) return load(from);
  S padded[kLanes<S>]{};
  memcpy(padded, from, static_cast<size_t>(count) * sizeof(S));
  return load(static_cast<const S*>(padded));
}

template <class S>
VFLOW_INLINE void store_some(Vector<S> from, int64_t count, S* to) {
  if (count >= kLanes<S>) return store(from, to);
  S padded[kLanes<S>];
  store(from, padded);
  memcpy(to, padded, static_cast<size_t>(count) * sizeof(S));
}

// lanes[i] = from[order[i]].
template <class V>
VFLOW_INLINE V permute(V from, typename Format<V>::Bits order) {
#if defined(__GNUC__) && !defined(__clang__)
  return __builtin_shuffle(from, order);
#else
  V to{};
  for (size_t i = 0; i < sizeof(V) / sizeof(from[0]); ++i) to[i] = from[order[i]];
  return to;
#endif
}

// The sum of all lanes, in every lane.
template <class V>
VFLOW_INLINE V sum_across(V numbers) {
  constexpr int lanes = sizeof(V) / sizeof(typename Format<V>::Scalar);
  for (int width = lanes / 2; width > 0; width /= 2) {
    typename Format<V>::Bits order{};
    for (int i = 0; i < lanes; ++i) order[i] = (i + width) % lanes;
    numbers += permute(numbers, order);
  }
  return numbers;
}

// A row of numbers as vectors: the last one begins early enough to end with the row, so that some numbers
// come twice, with equal results. A row shorter than a vector is one vector with lanes to spare.
template <class S>
struct RowVectors {
  int64_t width, count;
  Vector<S> counted;  // all bits of the lanes of the last vector that have not come before

  VFLOW_INLINE explicit RowVectors(int64_t width) : width(width), count((width + kLanes<S> - 1) / kLanes<S>) {
    typename Format<Vector<S>>::Bits mask{};
    const int64_t spare = count * kLanes<S> - width;
    for (int64_t lane = 0; lane < kLanes<S>; ++lane)
      mask[lane] = (width < kLanes<S> ? lane < width : lane >= spare) ? -1 : 0;
    counted = bits_as<Vector<S>>(mask);
  }
  VFLOW_INLINE int64_t first(int64_t i) const {
    const int64_t start = i * kLanes<S>;
    return width >= kLanes<S> && start + kLanes<S> > width ? width - kLanes<S> : start;
  }
  // Numbers within vector i, those that come twice among them.
  VFLOW_INLINE int64_t filled() const { return width < kLanes<S> ? width : kLanes<S>; }
  // Vector i for a sum over the row: zero where it has been counted before, or is no number at all.
  VFLOW_INLINE Vector<S> once(int64_t i, Vector<S> numbers) const {
    using Bits = typename Format<Vector<S>>::Bits;
    if (i + 1 < count) return numbers;
    return bits_as<Vector<S>>(bits_as<Bits>(numbers) & bits_as<Bits>(counted));
  }
};

// Rows on their way to an output that is too large to stay in the caches: they are collected in a stage and
// streamed from there, kStageRows at a time.
constexpr int64_t kStageRows = 16;

template <class S>
class RowWriter {
 public:
  VFLOW_INLINE RowWriter(S* rows, int64_t width, S* stage, bool wanted)
      : rows_(rows),
        stage_(stage),
        width_(width),
        streaming_(wanted && (reinterpret_cast<uintptr_t>(rows) |
                              static_cast<uintptr_t>(kStageRows * width) * sizeof(S)) %
                                     VFLOW_VECTOR_BYTES ==
                                 0) {}

  // Where row i is to be written. Rows come in order.
  VFLOW_INLINE S* row(int64_t i) const {
    return streaming_ ? stage_ + i % kStageRows * width_ : rows_ + i * width_;
  }
  // Row i has been written; the last row of all is `last`.
  VFLOW_INLINE void written(int64_t i, bool last) const {
    const int64_t staged = i % kStageRows + 1;
    if (!streaming_ || (staged < kStageRows && !last)) return;
    S* to = rows_ + (i + 1 - staged) * width_;
    const int64_t bytes = staged * width_ * static_cast<int64_t>(sizeof(S));
    if (staged == kStageRows)
      stream(stage_, bytes, to);
    else
      memcpy(to, stage_, static_cast<size_t>(bytes));
    if (last) finish_streams();
  }

 private:
  S *rows_, *stage_;
  int64_t width_;
  bool streaming_;
};

}  // namespace vflow::VFLOW_TARGET
