// Products of positions' channels with a small matrix, for one instruction set (VFLOW_TARGET).
//
// Few channels: a vector holds several positions (a group), and a product with the matrix is as many
// rotations of each position's channels, by a permutation, times vectors of the matrix's generalised
// diagonals. More channels: a group is one position of one or more vectors, and a product takes blocks of
// positions against blocks of the matrix's columns. Groups are a whole number of vectors, whose last lanes
// may be of no use: they hold the next position's numbers, or zero.
#pragma once

#include <type_traits>

#include "parts.h"
#include "simd.h"

namespace vflow::VFLOW_TARGET {

// Permutations of fewer lanes are not worth it.
template <class S>
inline constexpr int64_t kMostPacked = kLanes<S> >= 8 ? kLanes<S> / 2 : 0;

#if defined(__AVX512F__)
constexpr int kBlockVectors = 4;  // within 32 registers
#else
constexpr int kBlockVectors = 2;  // within 16 registers
#endif
constexpr int64_t kBlockRows = 8;  // positions of a block, at most

// How positions become groups of vectors.
template <class S>
struct Groups {
  int64_t numbers;  // of a group
  int64_t vectors;  // of a group

  VFLOW_INLINE explicit Groups(int64_t channels)
      : numbers(channels <= kMostPacked<S> ? kLanes<S> / channels * channels : channels),
        vectors((numbers + kLanes<S> - 1) / kLanes<S>) {}
  // Numbers, those of no use among them, that a group's vectors hold.
  VFLOW_INLINE int64_t width() const { return vectors * kLanes<S>; }
  VFLOW_INLINE int64_t count(int64_t all) const { return (all + numbers - 1) / numbers; }
};

// Calls function(offset in memory, offset in the groups' vectors) for every vector of `all` numbers.
template <class S, class Function>
VFLOW_INLINE void for_vectors(const Groups<S>& groups, int64_t all, const Function& function) {
  for (int64_t group = 0; group < groups.count(all); ++group)
    for (int64_t v = 0; v < groups.vectors; ++v)
      function(group * groups.numbers + v * kLanes<S>, (group * groups.vectors + v) * kLanes<S>);
}

template <class S>
VFLOW_INLINE Vector<S> load_at(const S* from, int64_t offset, int64_t all) {
  return load_some(from + offset, all - offset);
}
// What it writes after the group's end is written again with the next group.
template <class S>
VFLOW_INLINE void store_at(Vector<S> numbers, S* to, int64_t offset, int64_t all) {
  store_some(numbers, all - offset, to + offset);
}

template <class V, class C>
VFLOW_INLINE V broadcast(C number) {
  return number - V{};  // and not + V{}, which would be an addition, because of -0
}

// Few channels: the packed matrix has a vector for every generalised diagonal d, which takes channel
// (c + d) mod channels of a position to channel c. Lanes to spare take themselves, times zero.
template <class S, int channels>
struct Rotations {
  using V = Vector<S>;
  using Bits = typename Format<V>::Bits;
  Bits orders[channels];
  V diagonals[channels];

  VFLOW_INLINE explicit Rotations(const void* packed) {
    for (int d = 0; d < channels; ++d) {
      for (int lane = 0; lane < kLanes<S>; ++lane) {
        const int channel = lane % channels, position = lane - channel;
        orders[d][lane] = position + channels <= kLanes<S> ? position + (channel + d) % channels : lane;
      }
      diagonals[d] = load(static_cast<const Number<S>*>(packed) + d * kLanes<S>);
    }
  }
  VFLOW_INLINE V times(V numbers) const {
    V product = numbers * diagonals[0];
    for (int d = 1; d < channels; ++d) product += permute(numbers, orders[d]) * diagonals[d];
    return product;
  }
};

// More channels: the packed matrix has rows of a group's width.
template <class S, int vectors, int rows>
VFLOW_INLINE void product_block(const Number<S>* in, int64_t width, const Number<S>* matrix, int64_t channels,
                                Number<S>* out) {
  using V = Vector<S>;
  V sums[rows][vectors]{};
  for (int64_t j = 0; j < channels; ++j) {
    V weights[vectors];
    for (int v = 0; v < vectors; ++v) weights[v] = load(matrix + j * width + v * kLanes<S>);
    for (int r = 0; r < rows; ++r) {
      const V number = broadcast<V>(in[r * width + j]);
      for (int v = 0; v < vectors; ++v) sums[r][v] += number * weights[v];
    }
  }
  for (int r = 0; r < rows; ++r)
    for (int v = 0; v < vectors; ++v) store(sums[r][v], out + r * width + v * kLanes<S>);
}

template <class S, int vectors>
VFLOW_INLINE void product_columns(const Number<S>* in, int64_t rows, int64_t width, const Number<S>* matrix,
                                  int64_t channels, Number<S>* out) {
  constexpr int block = vectors == 1 ? kBlockRows : kBlockRows / 2;
  for (int64_t r = 0; r < rows; r += block)
    product_block<S, vectors, block>(in + r * width, width, matrix, channels, out + r * width);
}

// Calls function(first vector, integral constant of the number of vectors) for blocks of a group's vectors.
template <int most, class Function>
VFLOW_INLINE void for_blocks(int64_t vectors, const Function& function) {
  int64_t v = 0;
  for (; v + most <= vectors; v += most) function(v, std::integral_constant<int, most>{});
  if (most > 3 && vectors - v == 3) function(v, std::integral_constant<int, 3>{});
  if (most > 2 && vectors - v == 2) function(v, std::integral_constant<int, 2>{});
  if (vectors - v == 1) function(v, std::integral_constant<int, 1>{});
}

// out [rows, width] = in [rows, width] @ matrix; rows are rounded up to kBlockRows.
template <class S>
VFLOW_INLINE void product(const Number<S>* in, int64_t rows, const Groups<S>& groups, const Number<S>* matrix,
                          int64_t channels, Number<S>* out) {
  const int64_t width = groups.width();
  for_blocks<kBlockVectors>(groups.vectors, [&](int64_t v, auto vectors) {
    product_columns<S, decltype(vectors)::value>(in, rows, width, matrix + v * kLanes<S>, channels,
                                                 out + v * kLanes<S>);
  });
}

// sums [channels, width] += a^T b for a, b [rows, width]. Channels are rounded up to 4.
template <class S, int vectors, int channels>
VFLOW_INLINE void outer_block(const Number<S>* a, const Number<S>* b, int64_t rows, int64_t width,
                              Number<S>* sums) {
  using V = Vector<S>;
  V block[channels][vectors];
  for (int c = 0; c < channels; ++c)
    for (int v = 0; v < vectors; ++v) block[c][v] = load(sums + c * width + v * kLanes<S>);
  for (int64_t r = 0; r < rows; ++r) {
    V numbers[vectors];
    for (int v = 0; v < vectors; ++v) numbers[v] = load(b + r * width + v * kLanes<S>);
    for (int c = 0; c < channels; ++c) {
      const V factor = broadcast<V>(a[r * width + c]);
      for (int v = 0; v < vectors; ++v) block[c][v] += factor * numbers[v];
    }
  }
  for (int c = 0; c < channels; ++c)
    for (int v = 0; v < vectors; ++v) store(block[c][v], sums + c * width + v * kLanes<S>);
}

template <class S>
VFLOW_INLINE void add_outer(const Number<S>* a, const Number<S>* b, int64_t rows, const Groups<S>& groups,
                            int64_t channels, Number<S>* sums) {
  const int64_t width = groups.width();
  for_blocks<2>(groups.vectors, [&](int64_t v, auto vectors) {
    constexpr int count = decltype(vectors)::value;
    int64_t c = 0;
    if (count == 1)
      for (; c + 8 <= channels; c += 8)
        outer_block<S, count, 8>(a + c, b + v * kLanes<S>, rows, width, sums + c * width + v * kLanes<S>);
    for (; c < channels; c += 4)
      outer_block<S, count, 4>(a + c, b + v * kLanes<S>, rows, width, sums + c * width + v * kLanes<S>);
  });
}

// The matrix, or its transpose, as the products take it: channels rows of a group's width.
template <class S>
VFLOW_INLINE void pack(const double* matrix, int64_t channels, bool transposed, void* packed) {
  const Groups<S> groups(channels);
  auto* to = static_cast<Number<S>*>(packed);
  const bool rotated = channels <= kMostPacked<S>;
  for (int64_t i = 0; i < channels; ++i)
    for (int64_t j = 0; j < groups.width(); ++j) {
      const bool spare = j >= groups.numbers;
      const int64_t column = spare ? 0 : j % channels, row = rotated ? (column + i) % channels : i;
      const double number = transposed ? matrix[column * channels + row] : matrix[row * channels + column];
      to[i * groups.width() + j] = spare ? 0 : static_cast<Number<S>>(number);
    }
}

}  // namespace vflow::VFLOW_TARGET
