// Convolution whose every output is summed in one order, for one instruction set (VFLOW_TARGET): the bias,
// then row by row of the window, column by column, channel by channel, each product added with one rounding.
// Vectors go across output channels, so that their width changes no sum; places outside are zeros.
#include "exact_convolution_kernel.h"

#include <string.h>

#include <type_traits>

#include "fused.h"
#include "parts.h"

namespace vflow::VFLOW_TARGET {

using V = FloatVector;
constexpr int kVectors = 2;    // of output channels, in a block
constexpr int kPositions = 6;  // side by side; their sums fill the registers
constexpr int kFew = 4;        // that many still hide the additions' latency
constexpr int64_t kBlock = kVectors * kLanes<float>;

static void pack(const float* weight, int64_t in, int64_t out, int side, float* packed) {
  const int64_t window = int64_t{side} * side * in;
  for (int64_t first = 0; first < out; first += kBlock)
    for (int64_t k = 0; k < window; ++k)
      for (int64_t c = 0; c < kBlock; ++c)
        *packed++ = first + c < out ? weight[(first + c) * window + k] : 0.0f;
}

// `positions` outputs side by side of a block's first `vectors` vectors of channels. x is where the first
// one's window begins.
template <int positions, int vectors>
static VFLOW_NOINLINE void outputs(const float* x, int64_t row_stride, int64_t in, int side,
                                   const float* weights, const float* bias, int64_t filled, float* y,
                                   int64_t out) {
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
template <int vectors>
static void line_of(const ExactConvolutionArrays& arrays, const float* x, int64_t row_stride, int64_t channel,
                    int64_t filled, float* y) {
  const int64_t width = arrays.width, in = arrays.in, out = arrays.out;
  const float* weights = arrays.weights + channel * arrays.side * arrays.side * in;
  const float* bias = arrays.bias + channel;
  constexpr int many = kPositions * kVectors / vectors;
  const auto run = [&](auto positions, int64_t p) {
    outputs<positions, vectors>(x + p * in, row_stride, in, arrays.side, weights, bias, filled, y + p * out,
                                out);
  };
  int64_t p = 0;
  // Two fours are faster than a six and a two.
  for (; width - p >= many && width - p != 2 * kFew; p += many) run(std::integral_constant<int, many>{}, p);
  for (; width - p >= kFew; p += kFew) run(std::integral_constant<int, kFew>{}, p);
  for (; width - p >= 2; p += 2) run(std::integral_constant<int, 2>{}, p);
  for (; p < width; ++p) run(std::integral_constant<int, 1>{}, p);
}

static void rows(const ExactConvolutionArrays& arrays, int64_t image, int64_t first, int64_t count,
                 float* room) {
  const int64_t width = arrays.width, in = arrays.in, out = arrays.out, margin = arrays.side / 2;
  const int64_t stride = (width + 2 * margin) * in;
  const float* x = arrays.x + image * arrays.height * width * in;
  const float* from = x + first * width * in;
  if (margin) {
    memset(room, 0, static_cast<size_t>((count + 2 * margin) * stride) * sizeof(float));
    for (int64_t row = 0; row < count + 2 * margin; ++row) {
      const int64_t source = first + row - margin;
      if (source >= 0 && source < arrays.height)
        memcpy(room + row * stride + margin * in, x + source * width * in,
               static_cast<size_t>(width * in) * sizeof(float));
    }
    from = room;
  }
  for (int64_t channel = 0; channel < out; channel += kBlock) {
    const int64_t filled = out - channel < kBlock ? out - channel : kBlock;
    const auto line = filled > kLanes<float> ? line_of<kVectors> : line_of<1>;
    for (int64_t row = 0; row < count; ++row) {
      float* y = arrays.y + ((image * arrays.height + first + row) * width) * out + channel;
      line(arrays, from + row * stride, stride, channel, filled, y);
    }
  }
}

const ExactConvolutionKernels& exact_convolution_kernels() {
  static const ExactConvolutionKernels kernels = {kBlock, pack, rows};
  return kernels;
}

}  // namespace vflow::VFLOW_TARGET
