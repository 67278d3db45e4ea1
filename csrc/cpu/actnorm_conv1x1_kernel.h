// The actnorm_conv1x1 kernels of one instruction set: the same positions of a few images are the unit of
// work of a thread.
#pragma once

#include <stdint.h>

#include "arrays.h"
#include "target.h"

namespace vflow {

// What a run reads and writes. Pointers are to the whole arrays, images of `positions` x `channels`.
struct ActnormConv1x1Arrays {
  RowsView input;   // x; y of the inverse
  RowsView grad_y;  // of the gradient alone
  const void *scale, *bias;
  const void* matrix;  // packed: the weight, its inverse for the inverse, its transpose for the gradient
  void* output;        // y; x of the inverse; grad x of the gradient
  int64_t numbers;     // of all images; the last may be incomplete
  int64_t positions, channels;
};

// Which images and positions.
struct ActnormConv1x1Run {
  int64_t first_image, images, first_position, positions;
};

// Where a run of the gradient leaves its parts of the sums over images and positions.
struct ActnormConv1x1Sums {
  void *scale, *bias;  // real [positions, channels] of an image, of which the run writes its positions
  double* weight;      // [channels, channels]
};

struct ActnormConv1x1Kernels {
  // log|det| of the matrix [channels, channels], which is replaced by its factors, and their inverse.
  double (*factor)(double* matrix, int64_t channels, int64_t* order);
  void (*invert)(const double* factors, int64_t channels, const int64_t* order, double* inverse);
  // Bytes of a packed matrix and of the scratch, aligned to 64, of runs of so many positions, at most.
  int64_t (*matrix_bytes)(int64_t channels);
  int64_t (*scratch_bytes)(int64_t positions, int64_t channels);
  // [dtype] of all that follow.
  void (*widen[kDtypes])(const void* numbers, int64_t count, double* to);
  void (*pack[kDtypes])(const double* matrix, int64_t channels, bool transposed, void* packed);
  double (*log_scales[kDtypes])(const void* scale, int64_t count);  // the sum of their logarithms
  using Map = void (*)(const ActnormConv1x1Arrays&, const ActnormConv1x1Run&, void* scratch);
  Map forward[kDtypes], inverse[kDtypes];
  void (*backward[kDtypes])(const ActnormConv1x1Arrays&, const ActnormConv1x1Run&, void* scratch,
                            const ActnormConv1x1Sums&);
  // The gradients of scale and bias [count] and of the weight, from the sums' parts and the gradient of the
  // log-determinant. `parts` are real [parts, 2, repeats, count]; of the weight
  // [parts, channels, channels].
  void (*finish[kDtypes])(const void* parts, int64_t parts_count, int64_t repeats, int64_t count,
                          double grad_logdet, const void* scale, void* grad_scale, void* grad_bias);
  void (*finish_weight[kDtypes])(double* parts, int64_t parts_count, int64_t channels, const double* inverse,
                                 double grad_log_det, void* grad_weight);
};

VFLOW_DECLARE_KERNELS(const ActnormConv1x1Kernels& actnorm_conv1x1_kernels())

}  // namespace vflow
