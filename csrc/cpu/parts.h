// Parts of SIMD vectors: numbers that are fewer than a vector holds, sums over lanes, lanes in another order.
#pragma once

#include <stdint.h>
#include <string.h>

#include <type_traits>

#include "columns.h"
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

// sums[r] holds parts of row r's sum in its lanes -> the sum of row r in lane r. Rows side by side need no
// more shuffles than their transposition, and none waits for another.
template <class V, int64_t lanes>
VFLOW_INLINE V sum_rows(V (&sums)[lanes]) {
  transpose(sums);
  for (int64_t step = lanes / 2; step > 0; step /= 2)
    for (int64_t i = 0; i < step; ++i) sums[i] += sums[i + step];
  return sums[0];
}

// A row of numbers as vectors: the last one begins early enough to end with the row, so that some numbers
// come twice, with equal results. A row shorter than a vector is one vector with lanes to spare. Of a row
// that is `whole` vectors, as most are, nothing of this is left.
template <class S, bool whole = false>
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
    return !whole && width >= kLanes<S> && start + kLanes<S> > width ? width - kLanes<S> : start;
  }
  // Numbers within vector i, those that come twice among them.
  VFLOW_INLINE int64_t filled() const { return !whole && width < kLanes<S> ? width : kLanes<S>; }
  // Vector i for a sum over the row: zero where it has been counted before, or is no number at all.
  VFLOW_INLINE Vector<S> once(int64_t i, Vector<S> numbers) const {
    using Bits = typename Format<Vector<S>>::Bits;
    if (whole || i + 1 < count) return numbers;
    return bits_as<Vector<S>>(bits_as<Bits>(numbers) & bits_as<Bits>(counted));
  }
  VFLOW_INLINE Vector<S> load(const S* row, int64_t i) const { return load_some(row + first(i), filled()); }
  VFLOW_INLINE void store(Vector<S> numbers, int64_t i, S* row) const {
    store_some(numbers, filled(), row + first(i));
  }
  // The same, around the caches if `streaming`: for what is too large to be found there later.
  template <bool streaming>
  VFLOW_INLINE void write(Vector<S> numbers, int64_t i, S* row) const {
    if constexpr (streaming)
      stream(numbers, row + first(i));
    else
      store(numbers, i, row);
  }
};

// Whether a vector's worth of numbers lies at a multiple of its size.
template <class S>
VFLOW_INLINE bool is_aligned(const S* numbers) {
  return reinterpret_cast<uintptr_t>(numbers) % (kLanes<S> * sizeof(S)) == 0;
}

// Calls function(row, streaming) for rows of `width` numbers that are written to `to` first, where
// `streaming` is std::true_type if they are to go around the caches (`wanted`) and can: in whole vectors at
// their natural places.
template <class S, class Function>
VFLOW_INLINE void for_row_kind(const S* to, int64_t width, bool wanted, const Function& function) {
  if (width % kLanes<S> != 0) {
    function(RowVectors<S>(width), std::false_type{});
  } else if (wanted && is_aligned(to)) {
    function(RowVectors<S, true>(width), std::true_type{});
    finish_streams();
  } else {
    function(RowVectors<S, true>(width), std::false_type{});
  }
}

}  // namespace vflow::VFLOW_TARGET
