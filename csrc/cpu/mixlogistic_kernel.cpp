// The mixlogistic kernels for one instruction set (VFLOW_TARGET): a SIMD vector of elements at a time.
#include "mixlogistic_kernel.h"

#include "../common/mixlogistic.h"
#include "../common/mixlogistic_inverse.h"
#include "columns.h"
#include "simd.h"

namespace vflow::VFLOW_TARGET {

static int64_t scratch_bytes(int64_t components) {
  const int64_t width = 2 + 3 * components;
  // columns, what the gradient keeps, and rows of an incomplete vector
  return (width + Kept<float>::vectors(components) + width) * VFLOW_VECTOR_BYTES;
}

// Where a run keeps its things.
template <class S>
struct Room {
  Vector<S>*columns, *kept;
  S* rows;

  Room(void* scratch, int64_t components)
      : columns(static_cast<Vector<S>*>(scratch)),
        kept(columns + 2 + 3 * components),
        rows(reinterpret_cast<S*>(kept + Kept<Vector<S>>::vectors(components))) {}
};

// The parameters of the next `count` elements, as columns; lanes to spare repeat the first element.
template <class S>
VFLOW_INLINE Params<Vector<S>> load_params(const S* params, int64_t components, int64_t count,
                                           const Room<S>& room) {
  const int64_t width = 2 + 3 * components;
  const S* rows = params;
  if (count < kLanes<S>) {
    for (int64_t lane = 0; lane < kLanes<S>; ++lane)
      memcpy(room.rows + lane * width, params + (lane < count ? lane : 0) * width,
             static_cast<size_t>(width) * sizeof(S));
    rows = room.rows;
  }
  prefetch(params + 2 * kLanes<S> * width, kLanes<S> * width * static_cast<int64_t>(sizeof(S)));
  load_columns(rows, width, room.columns);
  return {room.columns, components};
}

template <class S>
VFLOW_INLINE void store_numbers(Vector<S> numbers, int64_t count, S* to) {
  if (count == kLanes<S>) return store(numbers, to);
  for (int64_t lane = 0; lane < count; ++lane) narrow(numbers[lane], to + lane);
}

template <class S>
VFLOW_INLINE double sum_lanes(Vector<S> numbers, int64_t count) {
  double sum = 0;
  for (int64_t lane = 0; lane < count; ++lane) sum += static_cast<double>(numbers[lane]);
  return sum;
}

// Forward and inverse alike: calls function(input, params, room) for every vector of the run.
template <class S, int K, class Function>
VFLOW_INLINE double map_run(const MixlogisticArrays& arrays, int64_t first, int64_t count, void* scratch,
                            const Function& function) {
  const int64_t components = K ? K : arrays.components, width = 2 + 3 * components;
  const Room<S> room(scratch, components);
  Rows<S> input(arrays.input, first);
  const S* params = static_cast<const S*>(arrays.params) + first * width;
  S* output = static_cast<S*>(arrays.output) + first;
  double sum = 0;
  for (int64_t i = 0; i < count; i += kLanes<S>) {
    const int64_t filled = count - i < kLanes<S> ? count - i : kLanes<S>;
    const Params<Vector<S>> columns = load_params(params + i * width, components, filled, room);
    const Transformed<Vector<S>> result = function(input.next(filled), columns, room);
    store_numbers(result.y, filled, output + i);
    sum += sum_lanes<S>(result.log_derivative, filled);
  }
  return sum;
}

template <class S, bool squash, int K>
double forward_run(const MixlogisticArrays& arrays, int64_t, int64_t first, int64_t count, void* scratch) {
  return map_run<S, K>(arrays, first, count, scratch,
                       [](Vector<S> x, const Params<Vector<S>>& params, const Room<S>&) {
                         return mixlogistic<squash>(x, params);
                       });
}

template <class S, bool squash>
double inverse_run(const MixlogisticArrays& arrays, int64_t, int64_t first, int64_t count, void* scratch) {
  return map_run<S, 0>(
      arrays, first, count, scratch, [](Vector<S> y, const Params<Vector<S>>& params, const Room<S>& room) {
        return mixlogistic_inverse<squash>(y, params, room.kept, room.kept + params.components);
      });
}

template <class S, bool squash, int K>
double backward_run(const MixlogisticArrays& arrays, int64_t image, int64_t first, int64_t count,
                    void* scratch) {
  using V = Vector<S>;
  const int64_t components = K ? K : arrays.components, width = 2 + 3 * components;
  const Room<S> room(scratch, components);
  const Kept<V> kept(room.kept, components);
  Rows<S> input(arrays.input, first), grad_y(arrays.grad_y, first);
  const S* params = static_cast<const S*>(arrays.params) + first * width;
  S* grad_x = static_cast<S*>(arrays.output) + first;
  S* grad_params = static_cast<S*>(arrays.grad_params) + first * width;
  const V grad_logdet = splat<V>(static_cast<const Number<S>*>(arrays.grad_logdet)[image]);
  for (int64_t i = 0; i < count; i += kLanes<S>) {
    const int64_t filled = count - i < kLanes<S> ? count - i : kLanes<S>;
    const Params<V> columns = load_params(params + i * width, components, filled, room);
    const V gradient = mixlogistic_backward<squash>(grad_y.next(filled), grad_logdet, input.next(filled),
                                                    columns, room.columns, kept);
    store_numbers(gradient, filled, grad_x + i);
    S* rows = grad_params + i * width;
    const int64_t bytes = filled * width * static_cast<int64_t>(sizeof(S));
    const bool streaming =
        arrays.stream && (reinterpret_cast<uintptr_t>(rows) | bytes) % VFLOW_VECTOR_BYTES == 0;
    if (filled == kLanes<S> && !streaming) {
      store_columns(room.columns, width, rows);
      continue;
    }
    store_columns(room.columns, width, room.rows);
    if (streaming)
      stream(room.rows, bytes, rows);
    else
      memcpy(rows, room.rows, static_cast<size_t>(bytes));
  }
  if (arrays.stream) finish_streams();
  return 0;
}

// The paper's numbers of components have loops of their own in float, a tenth to a fifth faster.
#define VFLOW_BY_COMPONENTS(run)                                                                    \
  template <class S, bool squash>                                                                   \
  double run##_any(const MixlogisticArrays& arrays, int64_t image, int64_t first, int64_t count,    \
                   void* scratch) {                                                                 \
    if constexpr (sizeof(Number<S>) == sizeof(float)) {                                             \
      if (arrays.components == 4) return run<S, squash, 4>(arrays, image, first, count, scratch);   \
      if (arrays.components == 10) return run<S, squash, 10>(arrays, image, first, count, scratch); \
      if (arrays.components == 32) return run<S, squash, 32>(arrays, image, first, count, scratch); \
    }                                                                                               \
    return run<S, squash, 0>(arrays, image, first, count, scratch);                                 \
  }
VFLOW_BY_COMPONENTS(forward_run)
VFLOW_BY_COMPONENTS(backward_run)

#define VFLOW_BY_DTYPE(run)                        \
  {                                                \
      {run<float, false>, run<float, true>},       \
      {run<double, false>, run<double, true>},     \
      {run<BFloat16, false>, run<BFloat16, true>}, \
  }

const MixlogisticKernels& mixlogistic_kernels() {
  static const MixlogisticKernels kernels = {
      scratch_bytes,
      VFLOW_BY_DTYPE(forward_run_any),
      VFLOW_BY_DTYPE(backward_run_any),
      VFLOW_BY_DTYPE(inverse_run),
  };
  return kernels;
}

}  // namespace vflow::VFLOW_TARGET
