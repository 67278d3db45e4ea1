// The exact_convolution kernels of one instruction set.
#pragma once

#include <stdint.h>

#include "target.h"

namespace vflow {

struct ExactConvolutionArrays {
  const float* x;        // [batch, height, width, in]
  const float* weights;  // as `pack` leaves them
  const float* bias;     // [out]
  float* y;              // [batch, height, width, out]
  int64_t height, width, in, out;
  int side;  // 1 or 3
};

// Of 3x3 convolutions those with so many input channels go by tiles of 4x4 outputs (conv3x3.cpp): fewer do
// not repay the transforms. It decides the bits, and so it is the same for every instruction set.
constexpr int64_t kLeastTiled = 16;

struct ExactConvolutionKernels {
  // Output channels of a block of packed weights; each is padded to one.
  int64_t block;
  // weight [out, side, side, in] -> blocks of [side, side, in, block].
  void (*pack)(const float* weight, int64_t in, int64_t out, int side, float* packed);
  // Rows `first` to `first + rows` of image `image`; `room` is for (rows + 2) (width + 2) in floats.
  void (*rows)(const ExactConvolutionArrays&, int64_t image, int64_t first, int64_t rows, float* room);
};

VFLOW_DECLARE_KERNELS(const ExactConvolutionKernels& exact_convolution_kernels())

}  // namespace vflow
