// Flat kernels over rows: a thread takes a run of neighbouring numbers, 16 bytes of them where rows are
// multiples of that.
#pragma once

#include <type_traits>

#include "launch.h"
#include "numbers.h"

namespace vflow::cuda {

// A thread's run among those of rows of `width` runs, and its row.
struct Run {
  int64_t index, row;
  bool live;

  static __device__ __forceinline__ Run of(int64_t runs, uint32_t width) {
    const int64_t index = int64_t{blockIdx.x} * kThreads + threadIdx.x;
    const int64_t row = runs <= INT64_C(0xffffffff) ? static_cast<uint32_t>(index) / width
                                                    : index / static_cast<int64_t>(width);
    return {index, row, index < runs};
  }
};

// Calls `function` with the numbers of a run: 16 bytes of them, or one where rows or pointers do not allow
// it.
template <class T, class Function>
int with_run(int64_t channels, bool aligned, Function function) {
  constexpr int chunk = kChunkNumbers<T>;
  if (aligned && channels % chunk == 0) return function(std::integral_constant<int, chunk>{});
  return function(std::integral_constant<int, 1>{});
}

// Rows of up to twice as many numbers as there are channels.
inline int check_rows(int dtype, int64_t rows, int64_t channels) {
  int64_t bytes;
  if (!size_of(dtype)) return VFLOW_ERROR_DTYPE;
  if (rows < 0) return VFLOW_ERROR_NEGATIVE_SIZE;
  if (channels < 1) return VFLOW_ERROR_CHANNELS;
  return channels > INT64_C(0x7fffffff) || __builtin_mul_overflow(rows, 2 * 8 * channels, &bytes)
             ? VFLOW_ERROR_OVERFLOW
             : VFLOW_OK;
}

}  // namespace vflow::cuda
