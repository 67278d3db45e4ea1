// What the codes of enum vflow_error mean.
#pragma once

#include "../vflow.h"

namespace vflow {

inline const char* message_of(int error) {
  switch (error) {
    case VFLOW_OK:
      return "no error";
    case VFLOW_ERROR_NULL_POINTER:
      return "a pointer is null";
    case VFLOW_ERROR_NEGATIVE_SIZE:
      return "a size is negative";
    case VFLOW_ERROR_COMPONENTS:
      return "components must be at least 1";
    case VFLOW_ERROR_OVERFLOW:
      return "the sizes are too large";
    case VFLOW_ERROR_THREADS:
      return "threads must be at least 1";
    case VFLOW_ERROR_OUT_OF_MEMORY:
      return "out of memory";
    case VFLOW_ERROR_DTYPE:
      return "dtype must be one of enum vflow_dtype";
    case VFLOW_ERROR_ROWS:
      return "a row must divide its array, and a stride must not be negative";
    case VFLOW_ERROR_FLAG:
      return "a flag must be 0 or 1";
    case VFLOW_ERROR_CHANNELS:
      return "channels and heads must be at least 1";
    case VFLOW_ERROR_DROPOUT:
      return "dropout must be in [0, 1)";
    case VFLOW_ERROR_WORKSPACE:
      return "the workspace is too small, or not on a multiple of 16 bytes";
    case VFLOW_ERROR_TOO_MANY_CHANNELS:
      return "the CUDA kernels take at most 1024 channels";
    case VFLOW_ERROR_CODER:
      return "the coder, its table or a number of bits cannot be";
    case VFLOW_ERROR_CODER_RANGE:
      return "a number is out of the coder's range";
    case VFLOW_ERROR_CODER_EMPTY:
      return "the coder has no bits left";
    case VFLOW_ERROR_CODER_FULL:
      return "the coder has no room left";
    default:
      return "unknown error";
  }
}

}  // namespace vflow
