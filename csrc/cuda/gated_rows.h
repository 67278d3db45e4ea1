// Rows of LayerNorm(x + a * sigmoid(b)): how lanes share them, and what of them stays in registers.
//
// `lanes` lanes of a warp, a power of two, take a row. Where rows are multiples of 16 bytes, a lane holds
// `Chunks` chunks of 16 bytes of it in registers, neighbouring lanes side by side; other rows are walked
// through number by number, as often as it takes, a warp a row.
#pragma once

#include <type_traits>

#include "launch.h"
#include "math.h"
#include "numbers.h"
#include "reduction.h"

namespace vflow::cuda {

constexpr double kNormEps = 1e-5;
constexpr int kMostChunks = 4;  // of a lane

// sigmoid(b), with its full accuracy.
template <class V>
__device__ __forceinline__ V gate_of(V b) {
  return Sigmoids<V>(b).below;
}

template <class V>
__device__ __forceinline__ V inverse_deviation(V variance) {
  // An overflown one would make its row all zeros, as if nothing had happened.
  return variance <= V(Format<V>::largest) ? V(1) / sqrt(variance + V(kNormEps)) : variance - variance;
}

// How rows are shared.
struct RowSharing {
  int lanes;   // of a row
  int chunks;  // of a lane; 0 where rows are taken number by number

  int64_t rows_of_block() const { return kThreads / lanes; }
};

template <class T>
RowSharing sharing_of(int64_t features, bool aligned, int most_chunks) {
  constexpr int numbers = kChunkNumbers<T>;
  const int64_t chunks = features / numbers;
  if (!aligned || features % numbers || chunks > most_chunks * kWarp) return {kWarp, 0};
  // The fewest lanes idle; of equals, the most lanes, and so the fewest registers.
  RowSharing best{kWarp, static_cast<int>(quotient_up(chunks, kWarp))};
  for (int lanes = kWarp / 2; lanes > 0; lanes /= 2) {
    const int64_t each = quotient_up(chunks, lanes);
    if (each <= most_chunks && lanes * each < best.lanes * best.chunks)
      best = {lanes, static_cast<int>(each)};
  }
  return best;
}

// Calls `function` with the chunks of a lane, at most `most`, as a constant.
template <int most, class Function>
int with_chunks(int chunks, Function function) {
  if constexpr (most > 0)
    if (chunks < most) return with_chunks<most - 1>(chunks, function);
  return function(std::integral_constant<int, most>{});
}

struct NormSizes {
  int64_t rows, features;

  int check(int dtype) const {
    int64_t bytes;
    if (!size_of(dtype)) return VFLOW_ERROR_DTYPE;
    if (rows < 0) return VFLOW_ERROR_NEGATIVE_SIZE;
    if (features < 1) return VFLOW_ERROR_CHANNELS;
    return features > (1 << 28) || __builtin_mul_overflow(rows, 2 * 8 * features, &bytes)
               ? VFLOW_ERROR_OVERFLOW
               : VFLOW_OK;
  }
};

// A lane's place: its row's first lane is `lane` 0.
struct LanePlace {
  int lane, group;  // groups of lanes within the block
  __device__ __forceinline__ explicit LanePlace(int lanes)
      : lane(static_cast<int>(threadIdx.x) & (lanes - 1)), group(static_cast<int>(threadIdx.x) / lanes) {}
};

// What a lane holds of a row: chunks as they are stored, and numbers that are computed with.
template <class T, int Chunks>
struct HeldRow {
  static constexpr int N = kChunkNumbers<T>, numbers = Chunks * N;
  using V = Real<T>;

  int features, lanes, lane;

  struct Packed {
    Chunk<T, N> chunks[Chunks];
    __device__ __forceinline__ V operator[](int i) const { return chunks[i / N][i % N]; }
    __device__ __forceinline__ void set(int i, V value) { chunks[i / N].set(i % N, value); }
  };

  // The feature that number i of this lane is, and whether there is one.
  __device__ __forceinline__ int feature(int i) const { return ((i / N) * lanes + lane) * N + i % N; }
  __device__ __forceinline__ bool there(int i) const { return feature(i - i % N) < features; }

  // Reads a lane's share of a row; zeros beyond its end.
  __device__ __forceinline__ Packed read(const T* row) const {
    Packed held;
    for (int c = 0; c < Chunks; ++c) {
      if (there(c * N))
        held.chunks[c] = *reinterpret_cast<const Chunk<T, N>*>(row + feature(c * N));
      else
        for (int i = 0; i < N; ++i) held.chunks[c].set(i, V{});
    }
    return held;
  }
  __device__ __forceinline__ void write(T* row, const Packed& held) const {
    for (int c = 0; c < Chunks; ++c)
      if (there(c * N)) *reinterpret_cast<Chunk<T, N>*>(row + feature(c * N)) = held.chunks[c];
  }
  __device__ __forceinline__ V sum(const V (&held)[numbers]) const {
    V sum{};
    for (int i = 0; i < numbers; ++i) sum += held[i];
    return sum_over_lanes(sum, lanes);
  }

  // Replaces a residual stream by its normalised row; returns one over its deviation. The mean is taken
  // twice: the second time of the differences from the first, whose own rounding would otherwise be all
  // there is of a row of nearly equal numbers.
  __device__ __forceinline__ V normalise(V (&held)[numbers]) const {
    for (int time = 0; time < 2; ++time) {
      const V mean = sum(held) / V(features);
      for (int i = 0; i < numbers; ++i) held[i] = there(i) ? held[i] - mean : V{};
    }
    V squares{};
    for (int i = 0; i < numbers; ++i) squares += held[i] * held[i];
    const V inverse = inverse_deviation(sum_over_lanes(squares, lanes) / V(features));
    for (int i = 0; i < numbers; ++i) held[i] *= inverse;
    return inverse;
  }
};

// A row that is walked through by a warp: its residual stream, computed anew each time.
template <class T>
struct WalkedRow {
  using V = Real<T>;
  const T *x, *ab;
  int features;
  V mean{}, rest{}, inverse{};

  __device__ __forceinline__ V residual(int f) const {
    return to_real(x[f]) + to_real(ab[f]) * gate_of(to_real(ab[features + f]));
  }
  __device__ __forceinline__ V normed(int f) const { return ((residual(f) - mean) - rest) * inverse; }

  template <class Term>
  __device__ __forceinline__ V sum(Term term) const {
    V sum{};
    for (int f = static_cast<int>(threadIdx.x) % kWarp; f < features; f += kWarp) sum += term(f);
    return sum_over_lanes(sum);
  }

  __device__ __forceinline__ WalkedRow(const T* x, const T* ab, int features)
      : x(x), ab(ab), features(features) {
    mean = sum([this](int f) { return residual(f); }) / V(features);
    rest = sum([this](int f) { return residual(f) - mean; }) / V(features);
    const V squares = sum([this](int f) {
      const V difference = (residual(f) - mean) - rest;
      return difference * difference;
    });
    inverse = inverse_deviation(squares / V(features));
  }
};

}  // namespace vflow::cuda
