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

// More channels: the packed matrix has rows of a group's width, and sums of a block of positions stay in
// registers. Where the last vector's upper half is of no use, as of 24 channels in vectors of 16, it is not
// computed: processors that take 512 bits as two times 256 save half an instruction.
#if defined(__AVX512F__)
template <class V>
struct LowerHalf;
template <>
struct LowerHalf<FloatVector> {
  typedef float Type __attribute__((vector_size(VFLOW_VECTOR_BYTES / 2)));
  static VFLOW_INLINE Type of(FloatVector v) {
    return bits_as<Type>(_mm512_castps512_ps256(bits_as<__m512>(v)));
  }
  static VFLOW_INLINE FloatVector widened(Type half) {
    return bits_as<FloatVector>(_mm512_zextps256_ps512(bits_as<__m256>(half)));
  }
};
template <>
struct LowerHalf<DoubleVector> {
  typedef double Type __attribute__((vector_size(VFLOW_VECTOR_BYTES / 2)));
  static VFLOW_INLINE Type of(DoubleVector v) {
    return bits_as<Type>(_mm512_castpd512_pd256(bits_as<__m512d>(v)));
  }
  static VFLOW_INLINE DoubleVector widened(Type half) {
    return bits_as<DoubleVector>(_mm512_zextpd256_pd512(bits_as<__m256d>(half)));
  }
};
#else
// Shorter registers gain nothing: their halves take as long.
template <class V>
struct LowerHalf {
  using Type = V;
  static VFLOW_INLINE V of(V v) { return v; }
  static VFLOW_INLINE V widened(V v) { return v; }
};
#endif

// `vectors` vectors, of the last of which only the lower half counts if it is `halved`.
template <class V, int vectors, bool halved>
struct Block {
  using Half = LowerHalf<V>;
  using H = typename Half::Type;
  static constexpr int whole = halved ? vectors - 1 : vectors;
  V first[whole > 0 ? whole : 1]{};
  H last{};

  template <class C>
  VFLOW_INLINE void load_from(const C* from) {
    constexpr int64_t lanes = sizeof(V) / sizeof(C);
    for (int v = 0; v < whole; ++v) first[v] = load(from + v * lanes);
    if (halved) memcpy(&last, from + whole * lanes, sizeof(last));
  }
  template <class C>
  VFLOW_INLINE void store_to(C* to) const {
    constexpr int64_t lanes = sizeof(V) / sizeof(C);
    for (int v = 0; v < whole; ++v) store(first[v], to + v * lanes);
    if (halved) memcpy(to + whole * lanes, &last, sizeof(last));
  }
  VFLOW_INLINE void add(V factor, const Block& numbers) {
    for (int v = 0; v < whole; ++v) first[v] += factor * numbers.first[v];
    if (halved) last += Half::of(factor) * numbers.last;
  }
  VFLOW_INLINE V operator[](int v) const { return v < whole ? first[v] : Half::widened(last); }
};

// sums[r] = in[r] @ matrix [channels, width] for a block of rows, which lie side by side.
template <class S, int rows, class Sums>
VFLOW_INLINE void product_block(const Number<S>* in, int64_t width, const Number<S>* matrix, int64_t channels,
                                Sums (&sums)[rows]) {
  for (int64_t j = 0; j < channels; ++j) {
    Sums weights;
    weights.load_from(matrix + j * width);
    for (int r = 0; r < rows; ++r) sums[r].add(broadcast<Vector<S>>(in[r * channels + j]), weights);
  }
}

// Rows of a block of so many vectors: as many as there are registers for.
template <int vectors>
inline constexpr int kBlockRowsOf = vectors <= kBlockVectors / 2 ? kBlockRows : kBlockRows / 2;

// Calls function(first vector, integral constant of the number of vectors) for blocks of a group's vectors.
template <int most, class Function>
VFLOW_INLINE void for_blocks(int64_t vectors, const Function& function) {
  int64_t v = 0;
  for (; v + most <= vectors; v += most) function(v, std::integral_constant<int, most>{});
  if (most > 3 && vectors - v == 3) function(v, std::integral_constant<int, 3>{});
  if (most > 2 && vectors - v == 2) function(v, std::integral_constant<int, 2>{});
  if (vectors - v == 1) function(v, std::integral_constant<int, 1>{});
}

// Whether a group's last vector is halved.
template <class S>
inline constexpr bool kHalves = sizeof(typename LowerHalf<Vector<S>>::Type) < sizeof(Vector<S>);
template <class S>
VFLOW_INLINE bool is_halved(const Groups<S>& groups) {
  return kHalves<S> && 2 * (groups.width() - groups.numbers) >= kLanes<S>;
}

// Calls function(integral constants of the vectors and of whether the last is halved) for a group that is
// one block of vectors; whether it is.
template <class S, class Function>
VFLOW_INLINE bool for_single_block(const Groups<S>& groups, const Function& function) {
  if (groups.vectors > kBlockVectors) return false;
  for_blocks<kBlockVectors>(groups.vectors, [&](int64_t, auto vectors) {
    if (is_halved(groups))
      function(vectors, std::integral_constant<bool, kHalves<S>>{});
    else
      function(vectors, std::false_type{});
  });
  return true;
}

// Calls after(row, vector, sums) for in [rows, channels] @ matrix [channels, width], in order. Rows are
// rounded up to kBlockRows in `in`, and in `out` [rows, width], which wide groups take for room.
template <class S, class After>
VFLOW_INLINE void product(const Number<S>* in, int64_t rows, const Groups<S>& groups, const Number<S>* matrix,
                          int64_t channels, Number<S>* out, const After& after) {
  using V = Vector<S>;
  const int64_t width = groups.width();
  const bool done = for_single_block(groups, [&](auto vectors, auto halved) {
    constexpr int count = decltype(vectors)::value, block = kBlockRowsOf<count>;
    for (int64_t r = 0; r < rows; r += block) {
      Block<V, count, decltype(halved)::value> sums[block];
      product_block<S>(in + r * channels, width, matrix, channels, sums);
      for (int64_t i = 0; i < block && r + i < rows; ++i)
        for (int v = 0; v < count; ++v) after(r + i, v, sums[i][v]);
    }
  });
  if (done) return;
  for_blocks<kBlockVectors>(groups.vectors, [&](int64_t v, auto vectors) {
    constexpr int count = decltype(vectors)::value, block = kBlockRowsOf<count>;
    for (int64_t r = 0; r < rows; r += block) {
      Block<V, count, false> sums[block];
      product_block<S>(in + r * channels, width, matrix + v * kLanes<S>, channels, sums);
      for (int64_t i = 0; i < block; ++i) sums[i].store_to(out + (r + i) * width + v * kLanes<S>);
    }
  });
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t v = 0; v < groups.vectors; ++v)
      after(r, v, load(static_cast<const Number<S>*>(out) + r * width + v * kLanes<S>));
}

// sums [channels, width] += a^T b for channels c and so many more of a, b [rows, stride].
template <class S, class Sums, int channels>
VFLOW_INLINE void outer_block(const Number<S>* a, const Number<S>* b, int64_t rows, int64_t stride,
                              int64_t width, Number<S>* sums) {
  Sums block[channels];
  for (int c = 0; c < channels; ++c) block[c].load_from(sums + c * width);
  for (int64_t r = 0; r < rows; ++r) {
    Sums numbers;
    numbers.load_from(b + r * stride);
    for (int c = 0; c < channels; ++c) block[c].add(broadcast<Vector<S>>(a[r * stride + c]), numbers);
  }
  for (int c = 0; c < channels; ++c) block[c].store_to(sums + c * width);
}

template <class S, class Sums, int most>
VFLOW_INLINE void outer_rows(const Number<S>* a, const Number<S>* b, int64_t rows, int64_t width,
                             int64_t channels, Number<S>* sums) {
  int64_t c = 0;
  for (; c + most <= channels; c += most)
    outer_block<S, Sums, most>(a + c, b, rows, channels, width, sums + c * width);
  for (; c < channels; c += 4) outer_block<S, Sums, 4>(a + c, b, rows, channels, width, sums + c * width);
}

// The same for all channels, rounded up to 4, and a, b [rows, channels] with a vector to spare.
template <class S>
VFLOW_INLINE void add_outer(const Number<S>* a, const Number<S>* b, int64_t rows, const Groups<S>& groups,
                            int64_t channels, Number<S>* sums) {
  using V = Vector<S>;
  constexpr int most = 2 * kBlockVectors;  // 4 or 8 channels of two vectors
  const int64_t width = groups.width();
  if (groups.vectors == 2 && is_halved(groups))
    return outer_rows<S, Block<V, 2, kHalves<S>>, most>(a, b, rows, width, channels, sums);
  for_blocks<2>(groups.vectors, [&](int64_t v, auto vectors) {
    constexpr int count = decltype(vectors)::value;
    const int64_t at = v * kLanes<S>;
    outer_rows<S, Block<V, count, false>, count == 1 ? 12 : most>(a, b + at, rows, width, channels,
                                                                  sums + at);
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
