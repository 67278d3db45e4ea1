// Launching kernels on the caller's device and stream: nothing here waits, allocates or keeps state, so that
// all of it can be captured in a CUDA graph.
#pragma once

#include <cuda_runtime.h>

#include <stdint.h>

#include "../vflow.h"

namespace vflow::cuda {

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;
constexpr int kThreads = 128;                // of a block, unless a kernel says otherwise
constexpr int64_t kSharedBytes = 48 * 1024;  // what every device gives a block unasked
constexpr int64_t kMostBlocks = 0x7fffffff;  // of a grid
constexpr int64_t kWorkspaceAlignment = 16;

// A CUDA error as a code of ours.
inline int code_of(cudaError_t error) {
  return error == cudaSuccess ? VFLOW_OK : VFLOW_ERROR_CUDA + static_cast<int>(error);
}

// Makes a device the current one for as long as it lives.
class DeviceGuard {
 public:
  explicit DeviceGuard(int device) {
    error_ = cudaGetDevice(&previous_);
    if (error_ != cudaSuccess || previous_ == device) return;
    error_ = cudaSetDevice(device);
    changed_ = error_ == cudaSuccess;
  }
  ~DeviceGuard() {
    if (changed_) cudaSetDevice(previous_);
  }
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;

  int error() const { return code_of(error_); }

 private:
  int previous_ = 0;
  bool changed_ = false;
  cudaError_t error_;
};

// Blocks of `threads` threads with `shared` bytes of shared memory. Returns VFLOW_OK or an error.
template <class... Parameters, class... Arguments>
int launch(cudaStream_t stream, int64_t blocks, int threads, int64_t shared, void (*kernel)(Parameters...),
           Arguments... arguments) {
  if (blocks > kMostBlocks) return VFLOW_ERROR_OVERFLOW;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = static_cast<size_t>(shared);
  config.stream = stream;
  cudaError_t error = cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...);
  if (error != cudaSuccess) cudaGetLastError();  // or PyTorch would come across it later
  return code_of(error);
}

__host__ __device__ constexpr int64_t quotient_up(int64_t n, int64_t d) { return (n + d - 1) / d; }

// The block's shared memory, all of which is dynamic.
template <class T>
__device__ __forceinline__ T* shared_memory() {
  extern __shared__ uint4 vflow_shared_memory[];
  return reinterpret_cast<T*>(vflow_shared_memory);
}

// Nothing to check, or what is wrong with it.
inline int check_workspace(const void* workspace, int64_t bytes, int64_t needed) {
  if (needed == 0) return VFLOW_OK;
  if (!workspace) return VFLOW_ERROR_NULL_POINTER;
  return bytes < needed || reinterpret_cast<uintptr_t>(workspace) % kWorkspaceAlignment
             ? VFLOW_ERROR_WORKSPACE
             : VFLOW_OK;
}

}  // namespace vflow::cuda
