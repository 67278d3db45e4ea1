// The part of the CUDA runtime that csrc/cuda stands on, for the CPU: a test compiles the kernels' sources
// against this header instead of CUDA's, and calls the same C ABI.
//
// Threads of a block are fibers that take turns at barriers, in an order the test may reverse: what needs a
// barrier and has none gives other bits. Shared memory is all dynamic, holds NaN when a block begins, and
// what lies beyond the bytes of the launch is out of bounds under AddressSanitizer. Asynchronous copies
// arrive when they are waited for. The device's inexact functions get the errors that NVIDIA documents. A
// barrier that not every thread comes to fails the launch.
#pragma once

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <functional>

#define __global__
#define __device__
#define __host__
#define __shared__
#define __forceinline__ inline
#define __launch_bounds__(...)

struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};

enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorInvalidConfiguration = 9,
  cudaErrorInvalidDevice = 101,
  cudaErrorLaunchFailure = 719,
};
typedef struct CUstream_st* cudaStream_t;
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes;
  cudaStream_t stream;
};

extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;

cudaError_t cudaGetDevice(int* device);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaGetLastError();
const char* cudaGetErrorString(cudaError_t error);

namespace emulator {

cudaError_t run(const cudaLaunchConfig_t& config, const std::function<void()>& kernel);
void wait_for_block();
uint64_t exchange(uint64_t number, int source_lane);
int lane();
void copy_later(void* to, const void* from, size_t bytes);
void arrive();

// x with a relative error of `size`, up or down as its bits have it.
inline float with_error(double x, double size) {
  uint64_t bits;
  memcpy(&bits, &x, sizeof(bits));
  bits *= 0x9e3779b97f4a7c15u;
  return static_cast<float>(x * (1 + (bits >> 63 ? size : -size)));
}

}  // namespace emulator

template <class... Parameters, class... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments... arguments) {
  return emulator::run(*config, [=] { kernel(arguments...); });
}

inline void __stwb(uint4* to, uint4 value) { *to = value; }
inline void __syncthreads() { emulator::wait_for_block(); }

template <class V>
V __shfl_sync(unsigned mask, V number, int source) {
  static_assert(sizeof(V) <= sizeof(uint64_t));
  uint64_t bits = 0;
  memcpy(&bits, &number, sizeof(V));
  bits = mask == 0xffffffffu ? emulator::exchange(bits, source) : ~uint64_t{0};
  memcpy(&number, &bits, sizeof(V));
  return number;
}
template <class V>
V __shfl_xor_sync(unsigned mask, V number, int lane_mask) {
  return __shfl_sync(mask, number, emulator::lane() ^ lane_mask);
}

// The product with log2 e is rounded, the power of two is good to 2^-22.5, and there are no denormals.
inline float emulated_expf(float x) {
  const float power = x * 1.44269504f;
  return power < -126 ? 0.0f : emulator::with_error(exp2(static_cast<double>(power)), 0x1.6ap-23);
}
#define __expf emulated_expf  // glibc has a function of the CUDA one's name
inline float __fdividef(float x, float y) {
  return fabsf(y) > 0x1p126f ? 0.0f : emulator::with_error(static_cast<double>(x) / y, 0x1p-23);
}
