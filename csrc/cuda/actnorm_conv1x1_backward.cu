// The gradient of activation normalisation and an invertible 1x1 convolution, in three launches: sums a
// block, the sums of those for the weight, and the end, whose block 0 inverts the weight. All sums are in an
// order that the sizes decide.
#include "channels.h"

namespace vflow::cuda {

constexpr int64_t kEnoughBlocks = 256;  // for any device, if there are as many images
constexpr int kGroup = 4;               // rows, or channels, of a thread's sums

// How the batch is cut: a line is `repeats` images, one on another; a block takes `tile_rows` positions of
// every line of a chunk.
struct GradientPlan {
  int repeats, tile_rows, blocks, lines_of_chunk, chunks;  // blocks of a line
  bool resident;  // the transposed weight and its gradient lie in shared memory
  int64_t shared, position_sums, weight_sums, weight_sum, spare;  // bytes, the last four of the workspace

  GradientPlan(const ChannelSizes& sizes, int64_t real_bytes) {
    constexpr int most_rows = 32;
    const int64_t positions = sizes.positions > 0 ? sizes.positions : 1,
                  squares = sizes.squares() * real_bytes;
    resident = 2 * squares <= 32 * 1024;
    tile_rows = rows_of_tile(sizes.channels, real_bytes, 4, resident ? 16 * 1024 : kSharedBytes, 1);
    int64_t stacked = most_rows / positions;
    if (stacked > sizes.batch) stacked = sizes.batch;
    repeats = static_cast<int>(stacked > 1 ? stacked : 1);
    blocks = static_cast<int>(quotient_up(repeats * positions, tile_rows));
    const int64_t lines = quotient_up(sizes.batch, repeats);
    int64_t most = kEnoughBlocks / blocks;
    most = most < 1 ? 1 : most > lines ? lines : most;
    lines_of_chunk = static_cast<int>(most > 0 ? quotient_up(lines, most) : 1);
    chunks = static_cast<int>(quotient_up(lines, lines_of_chunk));
    shared = 4 * tile_rows * sizes.channels * real_bytes + (resident ? 2 * squares : 0);
    position_sums = aligned(2 * int64_t{chunks} * repeats * sizes.cells() * real_bytes);
    weight_sums = aligned(int64_t{chunks} * blocks * squares);
    weight_sum = aligned(squares);
    spare = MatrixPlace(sizes.channels).spare;
  }
  static int64_t aligned(int64_t bytes) {
    return quotient_up(bytes, kWorkspaceAlignment) * kWorkspaceAlignment;
  }
  int64_t workspace() const { return position_sums + weight_sums + weight_sum + spare; }
  int64_t programs() const { return int64_t{chunks} * blocks; }
};

template <class T>
__global__ void __launch_bounds__(kThreads)
    actnorm_conv1x1_backward_kernel(Rows<T> grad_y, Rows<T> x, const T* __restrict__ scale,
                                    const T* __restrict__ bias, const T* __restrict__ weight,
                                    T* __restrict__ grad_x, Real<T>* __restrict__ position_sums,
                                    Real<T>* weight_sums, int64_t batch, int positions, int channels,
                                    GradientPlan plan) {
  using V = Real<T>;
  const int numbers = plan.tile_rows * channels, squares = channels * channels;
  V* normed = shared_memory<V>();  // [rows, channels], as the next three
  V *gy = normed + numbers, *of_scale = gy + numbers, *of_bias = of_scale + numbers;
  V *turned = of_bias + numbers, *of_weight = turned + squares;  // [channels, channels]
  if (!plan.resident) of_weight = weight_sums + int64_t{blockIdx.x} * squares;
  const int chunk = blockIdx.x / plan.blocks, block = blockIdx.x % plan.blocks;
  const int first = block * plan.tile_rows * channels;  // of the numbers of a line
  const int cells = positions * channels, line_cells = cells * plan.repeats;
  for (int i = threadIdx.x; i < numbers; i += blockDim.x) of_scale[i] = of_bias[i] = V{};
  for (int i = threadIdx.x; i < squares; i += blockDim.x) {
    of_weight[i] = V{};
    if (plan.resident) turned[i % channels * channels + i / channels] = to_real(weight[i]);
  }

  for (int l = 0; l < plan.lines_of_chunk; ++l) {
    const int64_t line = int64_t{chunk} * plan.lines_of_chunk + l;
    // The line's numbers that there are.
    const int64_t left = (batch - line * plan.repeats) * cells;
    const int live = static_cast<int>(left < line_cells ? (left > 0 ? left : 0) : line_cells) - first;
    const int64_t offset = line * line_cells + first;  // the images' numbers lie side by side
    for (int i = threadIdx.x; i < numbers; i += blockDim.x) {
      // Rows that are not there have a gradient of zero, and no normed numbers.
      V of_y{}, number{};
      if (i < live) {
        const int cell = (first + i) % cells;
        of_y = to_real(grad_y[offset + i]);
        number = to_real(x[offset + i]) * floored(to_real(scale[cell])) + to_real(bias[cell]);
      }
      gy[i] = of_y;
      normed[i] = number;
    }
    __syncthreads();
    for (int i = threadIdx.x; i < quotient_up(plan.tile_rows, kGroup) * channels; i += blockDim.x) {
      const int c = i % channels, row = i / channels * kGroup;
      const int rows = plan.tile_rows - row < kGroup ? plan.tile_rows - row : kGroup;
      V sums[kGroup]{};
      for (int n = 0; n < channels; ++n) {
        const V w = plan.resident ? turned[n * channels + c] : to_real(weight[c * channels + n]);
        for (int r = 0; r < kGroup; ++r)
          if (r < rows) sums[r] += gy[(row + r) * channels + n] * w;
      }
      for (int r = 0; r < rows; ++r) {
        const int at = (row + r) * channels + c;
        if (at >= live) break;
        of_scale[at] += sums[r] * to_real(x[offset + at]);
        of_bias[at] += sums[r];
        grad_x[offset + at] = from_real<T>(sums[r] * floored(to_real(scale[(first + at) % cells])));
      }
    }
    for (int i = threadIdx.x; i < quotient_up(channels, kGroup) * channels; i += blockDim.x) {
      const int n = i % channels, c = i / channels * kGroup;
      const int group = channels - c < kGroup ? channels - c : kGroup;
      V sums[kGroup]{};
      for (int r = 0; r < plan.tile_rows; ++r) {
        const V g = gy[r * channels + n];
        for (int j = 0; j < kGroup; ++j)
          if (j < group) sums[j] += normed[r * channels + c + j] * g;
      }
      for (int j = 0; j < group; ++j) of_weight[(c + j) * channels + n] += sums[j];
    }
    __syncthreads();
  }

  V* to = position_sums + int64_t{chunk} * line_cells + first;
  for (int i = threadIdx.x; i < numbers && first + i < line_cells; i += blockDim.x) {
    to[i] = of_scale[i];
    to[int64_t{plan.chunks} * line_cells + i] = of_bias[i];
  }
  if (plan.resident)
    for (int i = threadIdx.x; i < squares; i += blockDim.x)
      weight_sums[int64_t{blockIdx.x} * squares + i] = of_weight[i];
}

// Block 0 finishes the gradient of the weight, the others those of scale and bias, kThreads numbers each.
template <class T>
__global__ void __launch_bounds__(kThreads)
    actnorm_conv1x1_finish_kernel(const Real<T>* __restrict__ position_sums,
                                  const Real<T>* __restrict__ weight_sum,
                                  const Real<T>* __restrict__ grad_logdet, const T* __restrict__ scale,
                                  const T* __restrict__ weight, T* __restrict__ grad_scale,
                                  T* __restrict__ grad_bias, T* __restrict__ grad_weight, double* spare,
                                  int64_t batch, int positions, int channels, int terms) {
  using V = Real<T>;
  double* shared = shared_memory<double>();
  double gl = 0;
  for (int64_t b = threadIdx.x; b < batch; b += blockDim.x) gl += grad_logdet[b];
  gl = sum_over_block(gl, shared);
  if (threadIdx.x == 0) shared[0] = gl;
  __syncthreads();
  gl = shared[0];
  __syncthreads();
  if (blockIdx.x == 0) {
    const MatrixRoom room = matrix_room(spare, channels);
    room.load(weight, channels);
    room.invert(channels);
    for (int i = threadIdx.x; i < channels * channels; i += blockDim.x) {
      const double turned = room.inverse(channels, i % channels, i / channels);
      // Without a gradient of the log-determinant even a singular weight has one.
      const double more = gl == 0 ? 0 : gl * positions * turned;
      grad_weight[i] = from_real<T>(static_cast<V>(weight_sum[i] + more));
    }
    return;
  }
  const int64_t cells = int64_t{positions} * channels;
  const int64_t i = int64_t{blockIdx.x - 1} * kThreads + threadIdx.x;
  if (i >= cells) return;
  V of_scale{}, of_bias{};
  for (int term = 0; term < terms; ++term) {
    of_scale += position_sums[term * cells + i];
    of_bias += position_sums[(int64_t{terms} + term) * cells + i];
  }
  const V s = to_real(scale[i]);
  of_scale += static_cast<V>(gl) / floored(s);
  grad_scale[i] = from_real<T>(s < V(kLeastScale) ? V{} : of_scale);
  grad_bias[i] = from_real<T>(of_bias);
}

template <class T>
int run(cudaStream_t stream, const ChannelSizes& sizes, const GradientPlan& plan, const Rows<T>& grad_y,
        const Real<T>* grad_logdet, const Rows<T>& x, const T* scale, const T* bias, const T* weight,
        T* grad_x, T* grad_scale, T* grad_bias, T* grad_weight, char* workspace) {
  using V = Real<T>;
  V* position_sums = reinterpret_cast<V*>(workspace);
  V* weight_sums = reinterpret_cast<V*>(workspace + plan.position_sums);
  V* weight_sum = reinterpret_cast<V*>(workspace + plan.position_sums + plan.weight_sums);
  double* spare = reinterpret_cast<double*>(workspace + plan.workspace() - plan.spare);
  const int positions = static_cast<int>(sizes.positions), channels = static_cast<int>(sizes.channels);
  const bool any = sizes.numbers() > 0;
  int error = VFLOW_OK;
  if (any)
    error = launch(stream, plan.programs(), kThreads, plan.shared, actnorm_conv1x1_backward_kernel<T>, grad_y,
                   x, scale, bias, weight, grad_x, position_sums, weight_sums, sizes.batch, positions,
                   channels, plan);
  if (!error)
    error = sum_columns(stream, weight_sums, any ? plan.programs() : 0, sizes.squares(), weight_sum,
                        sizeof(V) == sizeof(double));
  if (error) return error;
  const int64_t matrix = MatrixPlace(sizes.channels).shared;
  return launch(stream, 1 + quotient_up(sizes.cells(), kThreads), kThreads, matrix > 64 ? matrix : 64,
                actnorm_conv1x1_finish_kernel<T>, position_sums, weight_sum, grad_logdet, scale, weight,
                grad_scale, grad_bias, grad_weight, plan.spare ? spare : nullptr, sizes.batch, positions,
                channels, any ? plan.chunks * plan.repeats : 0);
}

}  // namespace vflow::cuda

using namespace vflow::cuda;

int64_t vflow_cuda_actnorm_conv1x1_backward_workspace(int dtype, int64_t batch, int64_t positions,
                                                      int64_t channels) {
  const ChannelSizes sizes{batch, positions, channels};
  const int error = sizes.check(dtype);
  return error ? -error : GradientPlan(sizes, dtype == VFLOW_FLOAT64 ? 8 : 4).workspace();
}

int vflow_cuda_actnorm_conv1x1_backward(int dtype, const void* grad_y, int64_t grad_y_row,
                                        int64_t grad_y_stride, const void* grad_logdet, const void* x,
                                        int64_t x_row, int64_t x_stride, const void* scale, const void* bias,
                                        const void* weight, void* grad_x, void* grad_scale, void* grad_bias,
                                        void* grad_weight, int64_t batch, int64_t positions, int64_t channels,
                                        void* workspace, int64_t workspace_bytes, int device, void* stream) {
  const ChannelSizes sizes{batch, positions, channels};
  int error = sizes.check(dtype);
  if (error) return error;
  if (!weight || !grad_weight || (positions > 0 && (!scale || !bias || !grad_scale || !grad_bias)) ||
      (batch > 0 && !grad_logdet) || (sizes.numbers() > 0 && !grad_x))
    return VFLOW_ERROR_NULL_POINTER;
  error = check_rows(x, x_row, x_stride, sizes.numbers());
  if (!error) error = check_rows(grad_y, grad_y_row, grad_y_stride, sizes.numbers());
  if (error) return error;
  const GradientPlan plan(sizes, dtype == VFLOW_FLOAT64 ? 8 : 4);
  error = check_workspace(workspace, workspace_bytes, plan.workspace());
  if (error) return error;
  const DeviceGuard guard(device);
  if (guard.error()) return guard.error();
  return with_dtype(dtype, [&](auto number) {
    using T = decltype(number);
    return run<T>(static_cast<cudaStream_t>(stream), sizes, plan,
                  {grad_y, grad_y_row, grad_y_stride, sizes.numbers()},
                  static_cast<const Real<T>*>(grad_logdet), {x, x_row, x_stride, sizes.numbers()},
                  static_cast<const T*>(scale), static_cast<const T*>(bias), static_cast<const T*>(weight),
                  static_cast<T*>(grad_x), static_cast<T*>(grad_scale), static_cast<T*>(grad_bias),
                  static_cast<T*>(grad_weight), static_cast<char*>(workspace));
  });
}
