// The inverse of the mixture-of-logistics transform: a bracketed Newton iteration per element, a thread each.
// A block is one warp, so that few elements wait for the slowest.
#include "mixture_tile.h"
#include "reduction.h"

#include "../common/mixlogistic_inverse.h"

namespace vflow::cuda {

// The weights and 1 / scales of the components, which the iterations read.
template <class T>
using InverseTiles = MixtureTiles<T, 0, 2>;

// A number for each component; those of neighbouring threads are neighbours in memory.
template <class V>
struct Column {
  V* first;
  VFLOW_INLINE V& operator[](int k) const { return first[int64_t{k} * kWarp]; }
};

template <class T, bool squash>
__global__ void __launch_bounds__(kWarp)
    mixlogistic_inverse_kernel(Rows<T> y, const T* __restrict__ params, T* __restrict__ x,
                               double* __restrict__ partials, Real<T>* spare, InverseTiles<T> tiles) {
  using V = Real<T>;
  T* shared = shared_memory<T>();
  const TilePlace place(tiles);
  const T* rows = params + place.first * tiles.row();
  const int64_t room_size = int64_t{2 * kWarp} * tiles.components;
  V* room = spare + blockIdx.x * room_size;
  if (tiles.staged) {
    room = reinterpret_cast<V*>(shared_memory<char>() + tiles.tile_bytes());
    tiles.fetch(shared, rows, place.live);
  }
  const int64_t i = place.first + threadIdx.x;
  const V y_i = place.has_thread() ? to_real(y[i]) : V{};
  if (tiles.staged) tiles.arrived();

  double log_derivative = 0;
  if (place.has_thread()) {
    const T* row =
        tiles.staged ? shared + threadIdx.x * tiles.stride() : rows + int64_t{threadIdx.x} * tiles.row();
    const RowParams<T, 0> row_params{{row}, tiles.components};
    const Column<V> weight{room + threadIdx.x}, inv_scale{room + room_size / 2 + threadIdx.x};
    const V largest = V(kLargest<T>);
    V found = mixture_quantile(log_odds_of<squash>(y_i, row_params), row_params, weight, inv_scale);
    found = clamp(-largest, found, largest);
    x[i] = from_real<T>(found);
    log_derivative = -mixlogistic<squash>(found, row_params).log_derivative;
  }
  log_derivative = sum_over_lanes(log_derivative);
  if (threadIdx.x == 0) partials[blockIdx.x] = log_derivative;
}

struct InverseWorkspace {
  int64_t tiles, partials, room;  // bytes of the last two

  InverseWorkspace(int dtype, const MixtureSizes& sizes) {
    with_dtype(dtype, [&](auto number) {
      using T = decltype(number);
      const InverseTiles<T> cut(sizes.elements, sizes.components, kWarp);
      const int64_t blocks = sizes.batch * cut.tiles;
      tiles = cut.tiles;
      partials = quotient_up(blocks * int64_t{sizeof(double)}, kWorkspaceAlignment) * kWorkspaceAlignment;
      room = cut.staged ? 0 : blocks * 2 * kWarp * sizes.components * int64_t{sizeof(Real<T>)};
      return 0;
    });
  }
};

template <class T, bool squash>
int run(cudaStream_t stream, const MixtureSizes& sizes, const Rows<T>& y, const void* params, void* x,
        double* partials, void* room) {
  const InverseTiles<T> tiles(sizes.elements, sizes.components, kWarp);
  return launch(stream, sizes.batch * tiles.tiles, kWarp, tiles.tile_bytes() + tiles.extra_bytes(),
                mixlogistic_inverse_kernel<T, squash>, y, static_cast<const T*>(params), static_cast<T*>(x),
                partials, static_cast<Real<T>*>(room), tiles);
}

}  // namespace vflow::cuda

using namespace vflow::cuda;

int64_t vflow_cuda_mixlogistic_inverse_workspace(int dtype, int64_t batch, int64_t elements,
                                                 int64_t components) {
  const MixtureSizes sizes{batch, elements, components};
  const int error = sizes.check(dtype);
  if (error) return -error;
  const InverseWorkspace needed(dtype, sizes);
  return needed.partials + needed.room;
}

int vflow_cuda_mixlogistic_inverse(int dtype, const void* y, int64_t y_row, int64_t y_stride,
                                   const void* params, void* x, void* logdet, int64_t batch, int64_t elements,
                                   int64_t components, int squash, void* workspace, int64_t workspace_bytes,
                                   int device, void* stream) {
  const MixtureSizes sizes{batch, elements, components};
  int error = sizes.check(dtype);
  if (error) return error;
  if (squash != 0 && squash != 1) return VFLOW_ERROR_FLAG;
  if (batch == 0) return VFLOW_OK;
  if (!logdet || (elements > 0 && (!params || !x))) return VFLOW_ERROR_NULL_POINTER;
  error = check_rows(y, y_row, y_stride, batch * elements);
  if (error) return error;
  const InverseWorkspace needed(dtype, sizes);
  error = check_workspace(workspace, workspace_bytes, needed.partials + needed.room);
  if (error) return error;

  const DeviceGuard guard(device);
  if (guard.error()) return guard.error();
  const auto queue = static_cast<cudaStream_t>(stream);
  double* partials = static_cast<double*>(workspace);
  void* room = static_cast<char*>(workspace) + needed.partials;
  if (elements > 0)
    error = with_dtype(dtype, [&](auto number) {
      using T = decltype(number);
      const Rows<T> rows(y, y_row, y_stride, batch * elements);
      return squash ? run<T, true>(queue, sizes, rows, params, x, partials, room)
                    : run<T, false>(queue, sizes, rows, params, x, partials, room);
    });
  return error ? error : sum_rows(queue, partials, batch, needed.tiles, logdet, dtype == VFLOW_FLOAT64);
}
