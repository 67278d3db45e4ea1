// Arrays that lie in rows, as the C ABI takes them.
#pragma once

#include <stdint.h>

#include "../vflow.h"

namespace vflow::cuda {

// Rows of `length` numbers side by side, `stride` numbers from the start of a row to that of the next.
template <class T>
struct Rows {
  const T* data;
  int64_t length, stride;
  bool whole;   // one row, or rows without gaps
  bool narrow;  // indices can be divided in 32 bits

  Rows(const void* data, int64_t length, int64_t stride, int64_t count)
      : data(static_cast<const T*>(data)),
        length(length),
        stride(stride),
        whole(length == count || length == stride),
        narrow(count <= INT64_C(0xffffffff)) {}

  __device__ __forceinline__ T operator[](int64_t i) const { return data[offset(i)]; }

  __device__ __forceinline__ int64_t offset(int64_t i) const {
    if (whole) return i;
    if (!narrow) return i / length * stride + i % length;
    const uint32_t row = static_cast<uint32_t>(i) / static_cast<uint32_t>(length);
    return row * stride + static_cast<uint32_t>(i) % static_cast<uint32_t>(length);
  }
};

// VFLOW_OK if `count` numbers can lie so.
inline int check_rows(const void* data, int64_t length, int64_t stride, int64_t count) {
  int64_t reach;
  if (count == 0) return VFLOW_OK;
  if (!data) return VFLOW_ERROR_NULL_POINTER;
  return length < 1 || count % length != 0 || stride < 0 || __builtin_mul_overflow(stride, count, &reach)
             ? VFLOW_ERROR_ROWS
             : VFLOW_OK;
}

}  // namespace vflow::cuda
