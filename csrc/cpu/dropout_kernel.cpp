// The dropout kernels for one instruction set (VFLOW_TARGET): a SIMD vector of columns in four rows at a
// time.
#include "dropout_kernel.h"

#include "dropout_factors.h"
#include "parts.h"
#include "simd.h"

namespace vflow::VFLOW_TARGET {

template <bool streaming, class S, class Row>
VFLOW_INLINE void drop_rows(const Row& row, const DropoutRule& rule, int64_t first, const S* x, int64_t rows,
                            S* y) {
  const int64_t width = row.width;
  for (int64_t i = 0; i < rows; i += 4, x += 4 * width, y += 4 * width)
    for (int64_t j = 0; j < row.count; ++j) {
      Vector<S> factors[4];
      dropout_factors(rule, (first + i) / 4 * width + row.first(j), factors);
      for (int64_t k = 0; k < 4 && i + k < rows; ++k)
        row.template write<streaming>(row.load(x + k * width, j) * factors[k], j, y + k * width);
    }
}

template <class S>
void run(const DropoutArrays& arrays, int64_t first, int64_t rows) {
  const int64_t channels = arrays.channels;
  const S* x = static_cast<const S*>(arrays.x) + first * channels;
  S* y = static_cast<S*>(arrays.y) + first * channels;
  for_row_kind(y, channels, arrays.stream, [&](const auto& row, auto streaming) {
    drop_rows<decltype(streaming)::value>(row, arrays.rule, first, x, rows, y);
  });
}

const DropoutKernels& dropout_kernels() {
  static const DropoutKernels kernels = {{run<float>, run<double>, run<BFloat16>}};
  return kernels;
}

}  // namespace vflow::VFLOW_TARGET
