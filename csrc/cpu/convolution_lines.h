// Sums of products over input channels for a block of output channels, a line of places at a time. Each sum
// is in one order, channel by channel, every product added with one rounding; vectors go across output
// channels, so that their width changes no sum.
#pragma once

#include <type_traits>

#include "fused.h"
#include "parts.h"

namespace vflow::VFLOW_TARGET {

constexpr int kVectors = 2;    // of output channels, in a block
constexpr int kPositions = 6;  // side by side; their sums fill the registers
constexpr int kFew = 4;        // that many still hide the additions' latency
constexpr int64_t kBlock = kVectors * kLanes<float>;

// `positions` outputs side by side of a block's first `vectors` vectors of channels. x is where the first
// one's window begins.
template <int positions, int vectors>
VFLOW_NOINLINE void outputs(const float* x, int64_t row_stride, int64_t in, int side, const float* weights,
                            const float* bias, int64_t filled, float* y, int64_t out) {
  using V = FloatVector;
  V sums[positions][vectors];
  for (int v = 0; v < vectors; ++v) {
    const int64_t left = filled - v * kLanes<float>;
    const V start = left > 0 ? load_some(bias + v * kLanes<float>, left) : V{};
    for (int p = 0; p < positions; ++p) sums[p][v] = start;
  }
  for (int row = 0; row < side; ++row) {
    const float* from = x + row * row_stride;
    for (int64_t k = 0; k < side * in; ++k, weights += kBlock) {
      V w[vectors];
      for (int v = 0; v < vectors; ++v) w[v] = load(weights + v * kLanes<float>);
      for (int p = 0; p < positions; ++p) {
        const V number = broadcast(from[p * in + k]);
        for (int v = 0; v < vectors; ++v) sums[p][v] = fused(number, w[v], sums[p][v]);
      }
    }
  }
  for (int p = 0; p < positions; ++p)
    for (int v = 0; v < vectors; ++v) {
      const int64_t left = filled - v * kLanes<float>;
      if (left > 0) store_some<float>(sums[p][v], left, y + p * out + v * kLanes<float>);
    }
}

// A line of outputs of one block of channels.
struct Line {
  int64_t width, in;
  int64_t row_stride;    // of the inputs
  int side;              // of the window
  const float* weights;  // [side, side, in, kBlock]
  const float* bias;     // [kBlock], or fewer where the block is not filled
  int64_t filled, out;   // channels of the block, and of y
};

// x is where the window of the first output begins.
template <int vectors>
void line_of(const Line& line, const float* x, float* y) {
  const int64_t width = line.width, in = line.in, out = line.out;
  constexpr int many = kPositions * kVectors / vectors;
  const auto run = [&](auto positions, int64_t p) {
    outputs<positions, vectors>(x + p * in, line.row_stride, in, line.side, line.weights, line.bias,
                                line.filled, y + p * out, out);
  };
  int64_t p = 0;
  // Two fours are faster than a six and a two.
  for (; width - p >= many && width - p != 2 * kFew; p += many) run(std::integral_constant<int, many>{}, p);
  for (; width - p >= kFew; p += kFew) run(std::integral_constant<int, kFew>{}, p);
  for (; width - p >= 2; p += 2) run(std::integral_constant<int, 2>{}, p);
  for (; p < width; ++p) run(std::integral_constant<int, 1>{}, p);
}

}  // namespace vflow::VFLOW_TARGET
