// The gradient of the gated residual norm. A block goes over many rows and leaves one line of partial sums of
// the gradients of weight and bias; a second launch adds the lines.
#include "gated_rows.h"

namespace vflow::cuda {

constexpr int64_t kMostLines = 1024;  // of partial sums
// Chunks of a lane that registers have room for.
template <class T>
constexpr int kMostBackwardChunks = sizeof(T) == 2 ? 2 : 4;

// gate' of sigmoid, and the two gradients that go through it.
template <class V>
struct GateGradient {
  V of_a, of_b;
  __device__ __forceinline__ GateGradient(V gradient, V a, V b) {
    const Sigmoids<V> gate(b);
    of_a = gradient * gate.below;
    of_b = of_a * a * gate.above;
  }
};

template <class T, int Chunks>
__global__ void __launch_bounds__(kThreads, 2)  // or 128 registers are thought enough, and spill
    gated_residual_norm_backward_kernel(const T* __restrict__ grad, const T* __restrict__ x,
                                        const T* __restrict__ ab, const Real<T>* __restrict__ weight,
                                        T* __restrict__ grad_x, T* __restrict__ grad_ab,
                                        Real<T>* __restrict__ partials, int64_t rows, int features,
                                        int lanes) {
  using V = Real<T>;
  using Held = HeldRow<T, Chunks>;
  constexpr int numbers = Held::numbers;
  const LanePlace place(lanes);
  const Held held{features, lanes, place.lane};
  const int groups = kThreads / lanes;
  V grad_weight[numbers]{}, grad_bias[numbers]{};
  for (int64_t first = int64_t{blockIdx.x} * groups; first < rows; first += int64_t{gridDim.x} * groups) {
    const bool live = first + place.group < rows;
    // A group that has no row goes along for the sums of its warp.
    const int64_t at = (live ? first + place.group : rows - 1) * features;
    typename Held::Packed given = held.read(grad + at), of_x = held.read(x + at);
    typename Held::Packed a = held.read(ab + 2 * at), b = held.read(ab + 2 * at + features);
    V g[numbers], normed[numbers];
    for (int i = 0; i < numbers; ++i) normed[i] = of_x[i] + a[i] * gate_of(b[i]);
    const V inverse = held.normalise(normed);
    V mean{}, along{};
    for (int i = 0; i < numbers; ++i) {
      if (live) {
        grad_weight[i] += given[i] * normed[i];
        grad_bias[i] += given[i];
      }
      g[i] = held.there(i) ? given[i] * weight[held.feature(i)] : V{};
      mean += g[i];
      along += g[i] * normed[i];
    }
    mean = sum_over_lanes(mean, lanes) / V(features);
    along = sum_over_lanes(along, lanes) / V(features);
    for (int i = 0; i < numbers; ++i) {
      const V gradient = (g[i] - mean - normed[i] * along) * inverse;
      const GateGradient<V> gate(gradient, a[i], b[i]);
      of_x.set(i, gradient);
      a.set(i, gate.of_a);
      b.set(i, gate.of_b);
    }
    if (!live) continue;
    held.write(grad_x + at, of_x);
    held.write(grad_ab + 2 * at, a);
    held.write(grad_ab + 2 * at + features, b);
  }

  V* room = shared_memory<V>();  // [2, features] of every group
  for (int i = 0; i < numbers; ++i) {
    if (!held.there(i)) continue;
    V* line = room + place.group * 2 * features + held.feature(i);
    line[0] = grad_weight[i];
    line[features] = grad_bias[i];
  }
  __syncthreads();
  for (int i = threadIdx.x; i < 2 * features; i += kThreads) {
    V sum{};
    for (int group = 0; group < groups; ++group) sum += room[group * 2 * features + i];
    partials[int64_t{blockIdx.x} * 2 * features + i] = sum;
  }
}

// A warp a row; every warp keeps a line of partial sums of its own in memory.
template <class T>
__global__ void __launch_bounds__(kThreads)
    gated_residual_norm_backward_walk(const T* __restrict__ grad, const T* __restrict__ x,
                                      const T* __restrict__ ab, const Real<T>* __restrict__ weight,
                                      T* __restrict__ grad_x, T* __restrict__ grad_ab,
                                      Real<T>* __restrict__ partials, int64_t rows, int features) {
  using V = Real<T>;
  const LanePlace place(kWarp);
  const int64_t warps = int64_t{gridDim.x} * (kThreads / kWarp);
  const int64_t own = int64_t{blockIdx.x} * (kThreads / kWarp) + place.group;
  V* line = partials + own * 2 * features;
  for (int f = place.lane; f < 2 * features; f += kWarp) line[f] = V{};
  for (int64_t row = own; row < rows; row += warps) {
    const int64_t at = row * features;
    const WalkedRow<T> walked(x + at, ab + 2 * at, features);
    const auto scaled = [&](int f) { return to_real(grad[at + f]) * weight[f]; };
    const V mean = walked.sum(scaled) / V(features);
    const V along = walked.sum([&](int f) { return scaled(f) * walked.normed(f); }) / V(features);
    for (int f = place.lane; f < features; f += kWarp) {  // line[f], line[features + f]: this lane's alone
      const V normed = walked.normed(f), a = to_real(ab[2 * at + f]), b = to_real(ab[2 * at + features + f]);
      const V gradient = (scaled(f) - mean - normed * along) * walked.inverse;
      const GateGradient<V> gate(gradient, a, b);
      grad_x[at + f] = from_real<T>(gradient);
      grad_ab[2 * at + f] = from_real<T>(gate.of_a);
      grad_ab[2 * at + features + f] = from_real<T>(gate.of_b);
      line[f] += to_real(grad[at + f]) * normed;
      line[features + f] += to_real(grad[at + f]);
    }
  }
}

// Lines of partial sums, and the blocks that write them.
struct Lines {
  int64_t count, blocks;

  Lines(const NormSizes& sizes, const RowSharing& sharing) {
    constexpr int warps = kThreads / kWarp;
    const int64_t all = quotient_up(sizes.rows, sharing.rows_of_block());
    const int64_t most = sharing.chunks ? kMostLines : kMostLines / warps;
    blocks = all < most ? all : most;
    count = sharing.chunks ? blocks : blocks * warps;
  }
};

}  // namespace vflow::cuda

using namespace vflow::cuda;

int64_t vflow_cuda_gated_residual_norm_backward_workspace(int dtype, int64_t rows, int64_t features) {
  const NormSizes sizes{rows, features};
  const int error = sizes.check(dtype);
  if (error) return -error;
  // Whichever way the rows go, which the pointers decide.
  const int64_t lines = quotient_up(rows, kThreads / kWarp) * (kThreads / kWarp);
  return (lines < kMostLines ? lines : kMostLines) * 2 * features * (dtype == VFLOW_FLOAT64 ? 8 : 4);
}

int vflow_cuda_gated_residual_norm_backward(int dtype, const void* grad, const void* x, const void* ab,
                                            const void* weight, void* grad_x, void* grad_ab,
                                            void* grad_weight_bias, int64_t rows, int64_t features,
                                            void* workspace, int64_t workspace_bytes, int device,
                                            void* stream) {
  const NormSizes sizes{rows, features};
  int error = sizes.check(dtype);
  if (error) return error;
  if (!grad_weight_bias) return VFLOW_ERROR_NULL_POINTER;
  if (rows > 0 && (!grad || !x || !ab || !weight || !grad_x || !grad_ab)) return VFLOW_ERROR_NULL_POINTER;
  error = check_workspace(workspace, workspace_bytes,
                          vflow_cuda_gated_residual_norm_backward_workspace(dtype, rows, features));
  if (error) return error;
  const bool aligned =
      on_chunks(grad) && on_chunks(x) && on_chunks(ab) && on_chunks(grad_x) && on_chunks(grad_ab);
  const DeviceGuard guard(device);
  if (guard.error()) return guard.error();
  const auto queue = static_cast<cudaStream_t>(stream);
  return with_dtype(dtype, [&](auto number) {
    using T = decltype(number);
    using V = Real<T>;
    const RowSharing sharing = sharing_of<T>(features, aligned, kMostBackwardChunks<T>);
    const Lines lines(sizes, sharing);
    const auto start = [&](int64_t shared, auto kernel, auto... more) {
      return launch(queue, lines.blocks, kThreads, shared, kernel, static_cast<const T*>(grad),
                    static_cast<const T*>(x), static_cast<const T*>(ab), static_cast<const V*>(weight),
                    static_cast<T*>(grad_x), static_cast<T*>(grad_ab), static_cast<V*>(workspace), rows,
                    static_cast<int>(features), more...);
    };
    int failed = VFLOW_OK;
    if (rows > 0)
      failed = with_chunks<kMostBackwardChunks<T>>(sharing.chunks, [&](auto chunks) {
        constexpr int n = decltype(chunks)::value;
        if constexpr (n > 0)
          return start(sharing.rows_of_block() * 2 * features * int64_t{sizeof(V)},
                       gated_residual_norm_backward_kernel<T, n>, sharing.lanes);
        else
          return start(0, gated_residual_norm_backward_walk<T>);
      });
    return failed ? failed
                  : sum_columns(queue, workspace, lines.count, 2 * features, grad_weight_bias,
                                dtype == VFLOW_FLOAT64);
  });
}
