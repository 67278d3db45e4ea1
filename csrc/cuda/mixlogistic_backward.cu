// The gradient of the mixture-of-logistics transform. A thread goes over its element's components twice,
// first for the sums, then for the gradients, which take the place of the parameters in shared memory:
// computing a component again costs less than keeping it.
#include "mixture_tile.h"

namespace vflow::cuda {

// Reads `params` and writes their gradient to `gradient`, which may be the same place. Returns that of x.
template <class T, bool squash, int K>
__device__ __forceinline__ Real<T> gradient_of_element(Real<T> gy, Real<T> gl, Real<T> x,
                                                       const RowParams<T, K>& params, T* gradient) {
  using V = Real<T>;
  const Components<K> components = params.components;
  const V top = params.top();
  Sums<V> sums = sum_plainly<V>(params, x, top);
  const bool faint = sums.template faint<squash>();
  LogSpace<V> log_space{};
  if (__builtin_expect(faint, 0)) {
    log_space = LogSpace<V>(params, x);
    sum_in_log_space<squash>(sums, faint, log_space, params, x, top);
  }
  const ElementGradient<squash, V> element(gy, gl, sums, params.raw_a());
  gradient[0] = from_real<T>(element.raw_a);
  gradient[1] = from_real<T>(gy);
  V grad_x{};
  VFLOW_UNROLL
  for (int k = 0; k < components; ++k) {
    const Component<V> c = with_finite_z(component(params, k, x, top));
    Terms<V> terms = plain_terms<squash>(c);
    if (__builtin_expect(faint, 0)) terms = log_space_terms<squash>(log_space, log_terms(params, k, x));
    const ComponentGradient<V> of = element.of(c, terms);
    grad_x += of.slope;
    const bool clamped = params.raw_log_scale(k) < V(kLeastLogScale);
    gradient[2 + k] = from_real<T>(of.logit);
    gradient[2 + components + k] = from_real<T>(-of.slope);
    gradient[2 + 2 * components + k] = from_real<T>(clamped ? V{} : of.log_scale);
  }
  return grad_x;
}

template <class T, bool squash, int K>
__global__ void __launch_bounds__(kThreads)
    mixlogistic_backward_kernel(Rows<T> grad_y, const Real<T>* __restrict__ grad_logdet, Rows<T> x,
                                const T* params, T* __restrict__ grad_x, T* grad_params,
                                MixtureTiles<T, K> tiles) {
  T* shared = shared_memory<T>();
  const TilePlace place(tiles);
  const int64_t offset = place.first * tiles.row();
  if (K || tiles.staged) tiles.fetch(shared, params + offset, place.live);
  const int64_t i = place.first + threadIdx.x;
  const bool live = place.has_thread();
  const Real<T> x_i = live ? to_real(x[i]) : Real<T>{}, gy = live ? to_real(grad_y[i]) : Real<T>{};
  const Real<T> gl = grad_logdet[place.image];
  if (K || tiles.staged) tiles.arrived();

  if (live) {
    const int64_t own = offset + int64_t{threadIdx.x} * tiles.row();
    T* staged = shared + threadIdx.x * tiles.stride();
    const T* row = K || tiles.staged ? staged : params + own;
    T* gradient = K || tiles.staged ? staged : grad_params + own;
    const RowParams<T, K> row_params{{row}, tiles.components};
    grad_x[i] = from_real<T>(gradient_of_element<T, squash, K>(gy, gl, x_i, row_params, gradient));
  }
  if (K || tiles.staged) tiles.flush(shared, grad_params + offset, place.live);
}

template <class T, bool squash, int K>
int run(Variant<T, squash, K>, cudaStream_t stream, const MixtureSizes& sizes, const Rows<T>& grad_y,
        const void* grad_logdet, const Rows<T>& x, const void* params, void* grad_x, void* grad_params) {
  const MixtureTiles<T, K> tiles(sizes.elements, sizes.components, kThreads);
  return launch(stream, sizes.batch * tiles.tiles, tiles.threads, tiles.tile_bytes(),
                mixlogistic_backward_kernel<T, squash, K>, grad_y, static_cast<const Real<T>*>(grad_logdet),
                x, static_cast<const T*>(params), static_cast<T*>(grad_x), static_cast<T*>(grad_params),
                tiles);
}

}  // namespace vflow::cuda

using namespace vflow::cuda;

int vflow_cuda_mixlogistic_backward(int dtype, const void* grad_y, int64_t grad_y_row, int64_t grad_y_stride,
                                    const void* grad_logdet, const void* x, int64_t x_row, int64_t x_stride,
                                    const void* params, void* grad_x, void* grad_params, int64_t batch,
                                    int64_t elements, int64_t components, int squash, int device,
                                    void* stream) {
  const MixtureSizes sizes{batch, elements, components};
  int error = sizes.check(dtype);
  if (error) return error;
  if (squash != 0 && squash != 1) return VFLOW_ERROR_FLAG;
  const int64_t count = batch * elements;
  if (count == 0) return VFLOW_OK;
  if (!grad_logdet || !params || !grad_x || !grad_params) return VFLOW_ERROR_NULL_POINTER;
  error = check_rows(x, x_row, x_stride, count);
  if (!error) error = check_rows(grad_y, grad_y_row, grad_y_stride, count);
  if (error) return error;

  const DeviceGuard guard(device);
  if (guard.error()) return guard.error();
  const auto queue = static_cast<cudaStream_t>(stream);
  return with_variant(dtype, squash, components, [&](auto variant) {
    return run(variant, queue, sizes, {grad_y, grad_y_row, grad_y_stride, count}, grad_logdet,
               {x, x_row, x_stride, count}, params, grad_x, grad_params);
  });
}
