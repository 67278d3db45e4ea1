// Mixture-of-logistics transform: a thread takes a whole element, and a block leaves one partial sum of
// log-determinants.
#include "mixture_tile.h"
#include "reduction.h"

namespace vflow::cuda {

template <class T, bool squash, int K>
__global__ void __launch_bounds__(kThreads)
    mixlogistic_kernel(Rows<T> x, const T* __restrict__ params, T* __restrict__ y,
                       double* __restrict__ partials, MixtureTiles<T, K> tiles) {
  T* shared = shared_memory<T>();
  double* room = reinterpret_cast<double*>(shared_memory<char>() + tiles.tile_bytes());
  const TilePlace place(tiles);
  const T* rows = params + place.first * tiles.row();
  if (K || tiles.staged) tiles.fetch(shared, rows, place.live);
  const int64_t i = place.first + threadIdx.x;
  const Real<T> x_i = place.has_thread() ? to_real(x[i]) : Real<T>{};
  if (K || tiles.staged) tiles.arrived();

  double log_derivative = 0;
  if (place.has_thread()) {
    const T* row =
        K || tiles.staged ? shared + threadIdx.x * tiles.stride() : rows + int64_t{threadIdx.x} * tiles.row();
    const auto result = mixlogistic<squash>(x_i, RowParams<T, K>{{row}, tiles.components});
    y[i] = from_real<T>(result.y);
    log_derivative = result.log_derivative;
  }
  const double sum = sum_over_block(log_derivative, room);
  if (threadIdx.x == 0) partials[blockIdx.x] = sum;
}

template <class T, bool squash, int K>
int run(Variant<T, squash, K>, cudaStream_t stream, const MixtureSizes& sizes, const Rows<T>& x,
        const void* params, void* y, double* partials) {
  const MixtureTiles<T, K> tiles(sizes.elements, sizes.components, kThreads);
  const int64_t shared = tiles.tile_bytes() + kThreads / kWarp * int64_t{sizeof(double)};
  return launch(stream, sizes.batch * tiles.tiles, tiles.threads, shared, mixlogistic_kernel<T, squash, K>, x,
                static_cast<const T*>(params), static_cast<T*>(y), partials, tiles);
}

static int64_t tiles_of(int dtype, const MixtureSizes& sizes) {
  int64_t tiles = 0;
  with_dtype(dtype, [&](auto number) {
    tiles = MixtureTiles<decltype(number), 0>(sizes.elements, sizes.components, kThreads).tiles;
    return 0;
  });
  return tiles;
}

}  // namespace vflow::cuda

using namespace vflow::cuda;

int64_t vflow_cuda_mixlogistic_workspace(int dtype, int64_t batch, int64_t elements, int64_t components) {
  const MixtureSizes sizes{batch, elements, components};
  const int error = sizes.check(dtype);
  return error ? -error : batch * tiles_of(dtype, sizes) * int64_t{sizeof(double)};
}

int vflow_cuda_mixlogistic(int dtype, const void* x, int64_t x_row, int64_t x_stride, const void* params,
                           void* y, void* logdet, int64_t batch, int64_t elements, int64_t components,
                           int squash, void* workspace, int64_t workspace_bytes, int device, void* stream) {
  const MixtureSizes sizes{batch, elements, components};
  int error = sizes.check(dtype);
  if (error) return error;
  if (squash != 0 && squash != 1) return VFLOW_ERROR_FLAG;
  if (batch == 0) return VFLOW_OK;
  if (!logdet || (elements > 0 && (!params || !y))) return VFLOW_ERROR_NULL_POINTER;
  error = check_rows(x, x_row, x_stride, batch * elements);
  if (error) return error;
  const int64_t tiles = tiles_of(dtype, sizes);
  error = check_workspace(workspace, workspace_bytes, batch * tiles * int64_t{sizeof(double)});
  if (error) return error;

  const DeviceGuard guard(device);
  if (guard.error()) return guard.error();
  const auto queue = static_cast<cudaStream_t>(stream);
  double* partials = static_cast<double*>(workspace);
  if (elements > 0)
    error = with_variant(dtype, squash, components, [&](auto variant) {
      return run(variant, queue, sizes, {x, x_row, x_stride, batch * elements}, params, y, partials);
    });
  return error ? error : sum_rows(queue, partials, batch, tiles, logdet, dtype == VFLOW_FLOAT64);
}
