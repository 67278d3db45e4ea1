// Convolution whose every output is summed in one order, for one instruction set (VFLOW_TARGET): the bias,
// then row by row of the window, column by column, channel by channel (convolution_lines.h).
#include "exact_convolution_kernel.h"

#include <string.h>

#include "convolution_lines.h"

namespace vflow::VFLOW_TARGET {

static void pack(const float* weight, int64_t in, int64_t out, int side, float* packed) {
  const int64_t window = int64_t{side} * side * in;
  for (int64_t first = 0; first < out; first += kBlock)
    for (int64_t k = 0; k < window; ++k)
      for (int64_t c = 0; c < kBlock; ++c)
        *packed++ = first + c < out ? weight[(first + c) * window + k] : 0.0f;
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
    const float* weights = arrays.weights + channel * arrays.side * arrays.side * in;
    const Line line = {width, in, stride, arrays.side, weights, arrays.bias + channel, filled, out};
    const auto run = filled > kLanes<float> ? line_of<kVectors> : line_of<1>;
    for (int64_t row = 0; row < count; ++row)
      run(line, from + row * stride,
          arrays.y + ((image * arrays.height + first + row) * width) * out + channel);
  }
}

const ExactConvolutionKernels& exact_convolution_kernels() {
  static const ExactConvolutionKernels kernels = {kBlock, pack, rows};
  return kernels;
}

}  // namespace vflow::VFLOW_TARGET
