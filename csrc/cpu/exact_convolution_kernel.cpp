// Convolution whose every output is summed in one order, for one instruction set (VFLOW_TARGET): the bias,
// then row by row of the window, column by column, channel by channel, each product added with one rounding.
// Vectors go across output channels, so that their width changes no sum; places outside are zeros.
#include "exact_convolution_kernel.h"

#include <string.h>

#include "fused.h"
#include "parts.h"

namespace vflow::VFLOW_TARGET {

using V = FloatVector;
constexpr int kVectors = 2;    // of output channels, in a block
constexpr int kPositions = 6;  // side by side; their sums fill the registers
constexpr int64_t kBlock = kVectors * kLanes<float>;

static void pack(const float* weight, int64_t in, int64_t out, int side, float* packed) {
  const int64_t window = int64_t{side} * side * in;
  for (int64_t first = 0; first < out; first += kBlock)
    for (int64_t k = 0; k < window; ++k)
      for (int64_t c = 0; c < kBlock; ++c)
        *packed++ = first + c < out ? weight[(first + c) * window + k] : 0.0f;
}

// `positions` outputs side by side of one block of channels. x is where the first one's window begins.
template <int positions>
static VFLOW_NOINLINE void outputs(const float* x, int64_t row_stride, int64_t in, int side,
                                   const float* weights, const float* bias, int64_t filled, float* y,
                                   int64_t out) {
  V sums[positions][kVectors];
  for (int v = 0; v < kVectors; ++v) {
    const int64_t left = filled - v * kLanes<float>;
    const V start = left > 0 ? load_some(bias + v * kLanes<float>, left) : V{};
    for (int p = 0; p < positions; ++p) sums[p][v] = start;
  }
  for (int row = 0; row < side; ++row) {
    const float* from = x + row * row_stride;
    for (int64_t k = 0; k < side * in; ++k, weights += kBlock) {
      V w[kVectors];
      for (int v = 0; v < kVectors; ++v) w[v] = load(weights + v * kLanes<float>);
      for (int p = 0; p < positions; ++p) {
        const V number = broadcast(from[p * in + k]);
        for (int v = 0; v < kVectors; ++v) sums[p][v] = fused(number, w[v], sums[p][v]);
      }
    }
  }
  for (int p = 0; p < positions; ++p)
    for (int v = 0; v < kVectors; ++v) {
      const int64_t left = filled - v * kLanes<float>;
      if (left > 0) store_some<float>(sums[p][v], left, y + p * out + v * kLanes<float>);
    }
}

static void rows(const ExactConvolutionArrays& arrays, int64_t image, int64_t first, int64_t count,
                 float* room) {
  const int64_t width = arrays.width, in = arrays.in, out = arrays.out, margin = arrays.side / 2;
  const int64_t stride = (width + 2 * margin) * in, window = int64_t{arrays.side} * arrays.side * in;
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
    const float* weights = arrays.weights + channel * window;
    const int64_t filled = out - channel < kBlock ? out - channel : kBlock;
    for (int64_t row = 0; row < count; ++row) {
      float* y = arrays.y + ((image * arrays.height + first + row) * width) * out + channel;
      const float* line = from + row * stride;
      const float* bias = arrays.bias + channel;
      int64_t p = 0;
      for (; p + kPositions <= width; p += kPositions)
        outputs<kPositions>(line + p * in, stride, in, arrays.side, weights, bias, filled, y + p * out, out);
      for (; p + 2 <= width; p += 2)
        outputs<2>(line + p * in, stride, in, arrays.side, weights, bias, filled, y + p * out, out);
      for (; p < width; ++p)
        outputs<1>(line + p * in, stride, in, arrays.side, weights, bias, filled, y + p * out, out);
    }
  }
}

const ExactConvolutionKernels& exact_convolution_kernels() {
  static const ExactConvolutionKernels kernels = {kBlock, pack, rows};
  return kernels;
}

}  // namespace vflow::VFLOW_TARGET
