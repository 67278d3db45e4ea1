// What the kernels of actnorm_conv1x1 and of its gradient share: sizes, and where the small matrix is kept.
#pragma once

#include "launch.h"
#include "numbers.h"
#include "reduction.h"
#include "rows.h"
#include "small_matrix.h"

namespace vflow::cuda {

constexpr double kLeastScale = 1e-10;

template <class V>
__device__ __forceinline__ V floored(V scale) {
  return scale < V(kLeastScale) ? V(kLeastScale) : scale;  // NaN stays
}

struct ChannelSizes {
  int64_t batch, positions, channels;

  int64_t rows() const { return batch * positions; }
  int64_t numbers() const { return rows() * channels; }
  int64_t cells() const { return positions * channels; }  // of an image
  int64_t squares() const { return channels * channels; }

  int check(int dtype) const {
    if (!size_of(dtype)) return VFLOW_ERROR_DTYPE;
    if (batch < 0 || positions < 0) return VFLOW_ERROR_NEGATIVE_SIZE;
    if (channels < 1) return VFLOW_ERROR_CHANNELS;
    if (channels > kMostChannels) return VFLOW_ERROR_TOO_MANY_CHANNELS;
    int64_t bytes;
    // An image is indexed in 32 bits.
    return positions > (int64_t{1} << 30) / channels ||
                   __builtin_mul_overflow(batch, 8 * channels * (positions + 1), &bytes)
               ? VFLOW_ERROR_OVERFLOW
               : VFLOW_OK;
  }
};

// Where the matrix that is factored or inverted lies: in shared memory, or in the workspace if it is large.
struct MatrixPlace {
  int64_t shared, spare;  // bytes

  explicit MatrixPlace(int64_t channels) {
    const int64_t matrix = MatrixRoom::matrix_bytes(channels);
    const bool fits = channels <= 64;
    shared = MatrixRoom::vector_bytes(channels) + (fits ? matrix : 0);
    spare = fits ? 0 : matrix;
  }
};

// The room of a block with the shared memory of a MatrixPlace; `spare` is null where that holds the matrix.
__device__ __forceinline__ MatrixRoom matrix_room(double* spare, int channels) {
  double* shared = shared_memory<double>();
  return spare ? MatrixRoom(spare, shared, channels)
               : MatrixRoom(shared, shared + channels * channels, channels);
}

// The most rows, a power of two between `least` and 32, of which `arrays` fit in `bytes`.
inline int rows_of_tile(int64_t channels, int64_t number_bytes, int arrays, int64_t bytes, int least) {
  int rows = 32;
  while (rows > least && rows * channels * number_bytes * arrays > bytes) rows /= 2;
  return rows;
}

}  // namespace vflow::cuda
