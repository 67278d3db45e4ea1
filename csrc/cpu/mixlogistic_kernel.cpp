// The mixlogistic kernel for one instruction set (VFLOW_TARGET): a SIMD vector of elements at a time.
#include "mixlogistic_kernel.h"

#include "../common/mixlogistic.h"
#include "simd.h"

namespace vflow::VFLOW_TARGET {

template <class T>
static double run(const T* x, const T* params, T* y, int64_t count, int64_t components,
                  void* scratch) {
  using V = typename Simd<T>::V;
  constexpr int64_t lanes = kLanes<T>;
  const int64_t width = 2 + 3 * components;
  V* columns = static_cast<V*>(scratch);
  double sum = 0;
  for (int64_t i = 0; i < count; i += lanes) {
    const int64_t filled = count - i < lanes ? count - i : lanes;
    V x_v{};
    T numbers[lanes];
    if (filled == lanes) {
      memcpy(&x_v, x + i, sizeof(V));
      load_columns(params + i * width, width, reinterpret_cast<T*>(columns));
    } else {  // empty lanes repeat the first element
      for (int64_t lane = 0; lane < lanes; ++lane) {
        const int64_t source = i + (lane < filled ? lane : 0);
        x_v[lane] = x[source];
        for (int64_t j = 0; j < width; ++j) columns[j][lane] = params[source * width + j];
      }
    }
    const Transformed<V> out = mixlogistic(x_v, columns, components);
    memcpy(y + i, &out.y, static_cast<size_t>(filled) * sizeof(T));
    memcpy(numbers, &out.log_derivative, sizeof(V));
    for (int64_t lane = 0; lane < filled; ++lane) sum += static_cast<double>(numbers[lane]);
  }
  return sum;
}

double mixlogistic_run(const float* x, const float* params, float* y, int64_t count,
                       int64_t components, void* scratch) {
  return run(x, params, y, count, components, scratch);
}

double mixlogistic_run(const double* x, const double* params, double* y, int64_t count,
                       int64_t components, void* scratch) {
  return run(x, params, y, count, components, scratch);
}

}  // namespace vflow::VFLOW_TARGET
