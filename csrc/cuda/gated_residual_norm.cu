// LayerNorm of a residual stream after a gated branch: a row is read once.
#include "gated_rows.h"

namespace vflow::cuda {

template <class T, int Chunks>
__global__ void __launch_bounds__(kThreads)
    gated_residual_norm_kernel(const T* __restrict__ x, const T* __restrict__ ab,
                               const Real<T>* __restrict__ weight, const Real<T>* __restrict__ bias,
                               T* __restrict__ y, int64_t rows, int features, int lanes) {
  using V = Real<T>;
  const LanePlace place(lanes);
  const int64_t row = int64_t{blockIdx.x} * (kThreads / lanes) + place.group;
  const bool live = row < rows;
  // A group that has no row goes along for the sums of its warp.
  const int64_t at = (live ? row : rows - 1) * features;
  if constexpr (Chunks > 0) {
    using Held = HeldRow<T, Chunks>;
    const Held held{features, lanes, place.lane};
    typename Held::Packed packed = held.read(x + at);
    const auto a = held.read(ab + 2 * at), b = held.read(ab + 2 * at + features);
    V normed[Held::numbers];
    for (int i = 0; i < Held::numbers; ++i) normed[i] = packed[i] + a[i] * gate_of(b[i]);
    held.normalise(normed);
    for (int i = 0; i < Held::numbers; ++i)
      if (held.there(i)) packed.set(i, normed[i] * weight[held.feature(i)] + bias[held.feature(i)]);
    if (live) held.write(y + at, packed);
  } else {
    const WalkedRow<T> walked(x + at, ab + 2 * at, features);
    if (!live) return;
    for (int f = place.lane; f < features; f += kWarp)
      y[at + f] = from_real<T>(walked.normed(f) * weight[f] + bias[f]);
  }
}

}  // namespace vflow::cuda

using namespace vflow::cuda;

int vflow_cuda_gated_residual_norm(int dtype, const void* x, const void* ab, const void* weight,
                                   const void* bias, void* y, int64_t rows, int64_t features, int device,
                                   void* stream) {
  const int error = NormSizes{rows, features}.check(dtype);
  if (error || rows == 0) return error;
  if (!x || !ab || !weight || !bias || !y) return VFLOW_ERROR_NULL_POINTER;
  const bool aligned = on_chunks(x) && on_chunks(ab) && on_chunks(y);
  const DeviceGuard guard(device);
  if (guard.error()) return guard.error();
  return with_dtype(dtype, [&](auto number) {
    using T = decltype(number);
    using V = Real<T>;
    const RowSharing sharing = sharing_of<T>(features, aligned, kMostChunks);
    return with_chunks<kMostChunks>(sharing.chunks, [&](auto chunks) {
      return launch(static_cast<cudaStream_t>(stream), quotient_up(rows, sharing.rows_of_block()), kThreads,
                    0, gated_residual_norm_kernel<T, decltype(chunks)::value>, static_cast<const T*>(x),
                    static_cast<const T*>(ab), static_cast<const V*>(weight), static_cast<const V*>(bias),
                    static_cast<T*>(y), rows, static_cast<int>(features), sharing.lanes);
    });
  });
}
