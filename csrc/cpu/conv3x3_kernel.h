// The conv3x3 kernels of one instruction set.
#pragma once

#include <stdint.h>

#include "target.h"

namespace vflow {

// A convolution, or its transpose; arrays are [batch, height, width, channels] of the kernel's dtype.
struct Conv3x3Arrays {
  const void* x;
  const float* weights;  // as `pack` leaves them
  const float* bias;     // [out]
  void* y;
  int64_t height, width, in, out;
};

// The gradient of its weights, as sums over tiles at the points.
struct Conv3x3GradientArrays {
  const void *grad, *x;
  int64_t batch, height, width, in, out;
  const void* zeros;  // [in], what lies outside
  float* sums;        // [blocks of input channels, 36, out, block]
};

struct Conv3x3Kernels {
  // Channels of a block: of outputs in packed weights, of inputs in sums; each is padded to one.
  int64_t block;
  // The block from `first` of weight [out, 3, 3, in], or [in, 3, 3, out] where it is transposed.
  void (*pack)(const float* weight, int64_t in, int64_t out, int transposed, int64_t first, float* packed);
  // Tiles of 4x4 outputs of all images, `count` of them from the first asked for, at most kConvolvedAtOnce;
  // `room` is for tiles_room(in) floats.
  int64_t (*tiles_room)(int64_t in);
  void (*tiles[kDtypes])(const Conv3x3Arrays&, int64_t first, int64_t count, float* room);
  // The sums of part `part` of `parts` (1, 2 or 6) of the six rows of points, and of the blocks from `first`
  // to `last`, over all tiles; `room` is for sums_room(in, out, parts) floats.
  int64_t (*sums_room)(int64_t in, int64_t out, int parts);
  using Sums = void (*)(const Conv3x3GradientArrays&, int part, int parts, int64_t first, int64_t last,
                        float* room);
  Sums sums[kDtypes];
  // A block's sums to the gradient of weight [out, 3, 3, in].
  void (*gradient)(const Conv3x3GradientArrays&, int64_t block, float* grad_weight);
};

constexpr int64_t kConvolvedAtOnce = 24;

VFLOW_DECLARE_KERNELS(const Conv3x3Kernels& conv3x3_kernels())

}  // namespace vflow
