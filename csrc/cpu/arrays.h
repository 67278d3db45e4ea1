// How numbers lie in memory.
#pragma once

#include <stdint.h>

#include "../vflow.h"

namespace vflow {

constexpr int kDtypes = 3;  // enum vflow_dtype

// Bytes of a number.
constexpr int64_t size_of(int dtype) { return dtype == VFLOW_FLOAT64 ? 8 : dtype == VFLOW_BFLOAT16 ? 2 : 4; }

// The upper half of a float.
struct BFloat16 {
  uint16_t bits;
};

// Numbers in rows of `length` side by side, `stride` from the start of a row to that of the next.
struct RowsView {
  const void* data;
  int64_t length, stride;

  // VFLOW_OK if `count` numbers can lie so.
  int check(int64_t count) const {
    int64_t reach;
    if (count == 0) return VFLOW_OK;
    if (!data) return VFLOW_ERROR_NULL_POINTER;
    if (length < 1 || count % length != 0 || stride < 0 || __builtin_mul_overflow(stride, count, &reach))
      return VFLOW_ERROR_ROWS;
    return VFLOW_OK;
  }
};

}  // namespace vflow
