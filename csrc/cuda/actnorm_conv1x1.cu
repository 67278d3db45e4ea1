// Activation normalisation and an invertible 1x1 convolution, and the inverse. Forward is one launch: block 0
// factors the weight and writes the log-determinants, all others take a tile of positions each.
#include "channels.h"

namespace vflow::cuda {

constexpr int kRowsOfThread = 4;

// logdet [batch]: `sign` times the sum of log scale and positions times log|det weight|.
template <class T>
__device__ __forceinline__ void write_log_determinants(const T* scale, double log_det, double sign,
                                                       Real<T>* logdet, int64_t batch, int positions,
                                                       int channels, double* room) {
  double sum = 0;
  for (int i = threadIdx.x; i < positions * channels; i += blockDim.x)
    sum += ::log(floored(static_cast<double>(to_real(scale[i]))));
  sum = sum_over_block(sum, room);
  if (threadIdx.x == 0) room[0] = sign * (positions > 0 ? sum + positions * log_det : 0);
  __syncthreads();
  for (int64_t b = threadIdx.x; b < batch; b += blockDim.x) logdet[b] = static_cast<Real<T>>(room[0]);
}

// Rows of x, normalised going forward, in shared memory times the matrix [channels, channels]; the block's
// tile is the one of `index`.
template <class T, bool inverse, class M>
__device__ __forceinline__ void multiply_tile(int64_t index, const Rows<T>& x, const T* __restrict__ scale,
                                              const T* __restrict__ bias, const M* __restrict__ matrix,
                                              T* __restrict__ y, int64_t rows, int positions, int channels,
                                              int tile_rows) {
  using V = Real<T>;
  V* tile = shared_memory<V>();
  const int64_t first = index * tile_rows;
  const int live = static_cast<int>(rows - first < tile_rows ? rows - first : tile_rows);
  const uint32_t cells = static_cast<uint32_t>(positions) * channels;
  const uint32_t first_cell = static_cast<uint32_t>(first % positions) * channels;
  for (int i = threadIdx.x; i < tile_rows * channels; i += blockDim.x) {
    V number{};
    if (i < live * channels) {
      number = to_real(x[first * channels + i]);
      const uint32_t cell = (first_cell + i) % cells;
      if (!inverse) number = number * floored(to_real(scale[cell])) + to_real(bias[cell]);
    }
    tile[i] = number;
  }
  __syncthreads();
  for (int i = threadIdx.x; i < tile_rows / kRowsOfThread * channels; i += blockDim.x) {
    const int n = i % channels, row = i / channels * kRowsOfThread;
    V sums[kRowsOfThread]{};
    for (int c = 0; c < channels; ++c) {
      const V w = to_real(matrix[c * channels + n]);
      for (int r = 0; r < kRowsOfThread; ++r) sums[r] += tile[(row + r) * channels + c] * w;
    }
    for (int r = 0; r < kRowsOfThread && row + r < live; ++r) {
      const int at = (row + r) * channels + n;
      const uint32_t cell = (first_cell + at) % cells;
      if (inverse) sums[r] = (sums[r] - to_real(bias[cell])) / floored(to_real(scale[cell]));
      y[first * channels + at] = from_real<T>(sums[r]);
    }
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    actnorm_conv1x1_kernel(Rows<T> x, const T* __restrict__ scale, const T* __restrict__ bias,
                           const T* __restrict__ weight, T* __restrict__ y, Real<T>* __restrict__ logdet,
                           double* spare, int64_t batch, int positions, int channels, int tile_rows) {
  if (blockIdx.x > 0) {
    multiply_tile<T, false>(blockIdx.x - 1, x, scale, bias, weight, y, batch * positions, positions, channels,
                            tile_rows);
    return;
  }
  const MatrixRoom room = matrix_room(spare, channels);
  room.load(weight, channels);
  const double log_det = room.log_abs_det(channels);
  write_log_determinants(scale, log_det, 1.0, logdet, batch, positions, channels, shared_memory<double>());
}

// One block: the inverse of the weight, and the log-determinants of the inverse map.
template <class T>
__global__ void __launch_bounds__(kThreads)
    invert_weight_kernel(const T* __restrict__ scale, const T* __restrict__ weight,
                         Real<T>* __restrict__ inverse, Real<T>* __restrict__ logdet, double* spare,
                         int64_t batch, int positions, int channels) {
  const MatrixRoom room = matrix_room(spare, channels);
  room.load(weight, channels);
  const double log_det = room.invert(channels);
  for (int i = threadIdx.x; i < channels * channels; i += blockDim.x)
    inverse[i] = static_cast<Real<T>>(room.inverse(channels, i / channels, i % channels));
  __syncthreads();
  write_log_determinants(scale, log_det, -1.0, logdet, batch, positions, channels, shared_memory<double>());
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    actnorm_conv1x1_inverse_kernel(Rows<T> y, const T* __restrict__ scale, const T* __restrict__ bias,
                                   const Real<T>* __restrict__ inverse, T* __restrict__ x, int64_t rows,
                                   int positions, int channels, int tile_rows) {
  multiply_tile<T, true>(blockIdx.x, y, scale, bias, inverse, x, rows, positions, channels, tile_rows);
}

// Bytes of shared memory that write_log_determinants and a product want.
struct MapPlan {
  MatrixPlace matrix;
  int tile_rows;
  int64_t tiles, tile_bytes;

  MapPlan(const ChannelSizes& sizes, int64_t real_bytes)
      : matrix(sizes.channels),
        tile_rows(rows_of_tile(sizes.channels, real_bytes, 1, 24 * 1024, kRowsOfThread)),
        tiles(quotient_up(sizes.rows(), tile_rows)),
        tile_bytes(tile_rows * sizes.channels * real_bytes) {}

  // The first numbers of the room serve the sum of log scale.
  int64_t matrix_bytes() const { return matrix.shared > 64 ? matrix.shared : 64; }
};

static int check(const ChannelSizes& sizes, const void* x, int64_t x_row, int64_t x_stride, const void* scale,
                 const void* bias, const void* weight, const void* y, const void* logdet) {
  if (sizes.batch == 0) return VFLOW_OK;
  if (!weight || !logdet) return VFLOW_ERROR_NULL_POINTER;
  if (sizes.positions > 0 && (!scale || !bias || !y)) return VFLOW_ERROR_NULL_POINTER;
  return check_rows(x, x_row, x_stride, sizes.numbers());
}

}  // namespace vflow::cuda

using namespace vflow::cuda;

int64_t vflow_cuda_actnorm_conv1x1_workspace(int dtype, int64_t batch, int64_t positions, int64_t channels) {
  const int error = ChannelSizes{batch, positions, channels}.check(dtype);
  return error ? -error : MatrixPlace(channels).spare;
}

int64_t vflow_cuda_actnorm_conv1x1_inverse_workspace(int dtype, int64_t batch, int64_t positions,
                                                     int64_t channels) {
  const int error = ChannelSizes{batch, positions, channels}.check(dtype);
  // The matrix in work, and then the inverse, at most of doubles.
  return error ? -error : MatrixPlace(channels).spare + quotient_up(channels * channels, 2) * 16;
}

int vflow_cuda_actnorm_conv1x1(int dtype, const void* x, int64_t x_row, int64_t x_stride, const void* scale,
                               const void* bias, const void* weight, void* y, void* logdet, int64_t batch,
                               int64_t positions, int64_t channels, void* workspace, int64_t workspace_bytes,
                               int device, void* stream) {
  const ChannelSizes sizes{batch, positions, channels};
  int error = sizes.check(dtype);
  if (!error) error = check(sizes, x, x_row, x_stride, scale, bias, weight, y, logdet);
  if (error || batch == 0) return error;
  const int64_t spare = MatrixPlace(channels).spare;
  error = check_workspace(workspace, workspace_bytes, spare);
  if (error) return error;
  const DeviceGuard guard(device);
  if (guard.error()) return guard.error();
  return with_dtype(dtype, [&](auto number) {
    using T = decltype(number);
    const MapPlan plan(sizes, sizeof(Real<T>));
    const int64_t shared = plan.tile_bytes > plan.matrix_bytes() ? plan.tile_bytes : plan.matrix_bytes();
    return launch(static_cast<cudaStream_t>(stream), 1 + plan.tiles, kThreads, shared,
                  actnorm_conv1x1_kernel<T>, Rows<T>(x, x_row, x_stride, sizes.numbers()),
                  static_cast<const T*>(scale), static_cast<const T*>(bias), static_cast<const T*>(weight),
                  static_cast<T*>(y), static_cast<Real<T>*>(logdet),
                  spare ? static_cast<double*>(workspace) : nullptr, batch, static_cast<int>(positions),
                  static_cast<int>(channels), plan.tile_rows);
  });
}

int vflow_cuda_actnorm_conv1x1_inverse(int dtype, const void* y, int64_t y_row, int64_t y_stride,
                                       const void* scale, const void* bias, const void* weight, void* x,
                                       void* logdet, int64_t batch, int64_t positions, int64_t channels,
                                       void* workspace, int64_t workspace_bytes, int device, void* stream) {
  const ChannelSizes sizes{batch, positions, channels};
  int error = sizes.check(dtype);
  if (!error) error = check(sizes, y, y_row, y_stride, scale, bias, weight, x, logdet);
  if (error || batch == 0) return error;
  error = check_workspace(workspace, workspace_bytes,
                          vflow_cuda_actnorm_conv1x1_inverse_workspace(dtype, batch, positions, channels));
  if (error) return error;
  const DeviceGuard guard(device);
  if (guard.error()) return guard.error();
  const auto queue = static_cast<cudaStream_t>(stream);
  return with_dtype(dtype, [&](auto number) {
    using T = decltype(number);
    const MapPlan plan(sizes, sizeof(Real<T>));
    double* spare = plan.matrix.spare ? static_cast<double*>(workspace) : nullptr;
    auto* inverse = reinterpret_cast<Real<T>*>(static_cast<char*>(workspace) + plan.matrix.spare);
    const int n = static_cast<int>(channels), p = static_cast<int>(positions);
    const int failed =
        launch(queue, 1, kThreads, plan.matrix_bytes(), invert_weight_kernel<T>, static_cast<const T*>(scale),
               static_cast<const T*>(weight), inverse, static_cast<Real<T>*>(logdet), spare, batch, p, n);
    if (failed || positions == 0) return failed;
    return launch(queue, plan.tiles, kThreads, plan.tile_bytes, actnorm_conv1x1_inverse_kernel<T>,
                  Rows<T>(y, y_row, y_stride, sizes.numbers()), static_cast<const T*>(scale),
                  static_cast<const T*>(bias), inverse, static_cast<T*>(x), sizes.rows(), p, n,
                  plan.tile_rows);
  });
}
