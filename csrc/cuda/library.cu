// What the library says about itself.
#include <cuda_runtime.h>

#include "../common/errors.h"
#include "../vflow.h"

int vflow_abi_version(void) { return VFLOW_ABI_VERSION; }

const char* vflow_error_message(int error) {
  if (error > VFLOW_ERROR_CUDA) return cudaGetErrorString(static_cast<cudaError_t>(error - VFLOW_ERROR_CUDA));
  return vflow::message_of(error);
}
