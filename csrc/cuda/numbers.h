// What arrays hold, what is computed with, and 16 bytes of either at a time.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <stdint.h>
#include <string.h>

#include "../vflow.h"

namespace vflow::cuda {

using BFloat16 = __nv_bfloat16;
using Float16 = __half;

// The type of the arithmetic on stored numbers `T`.
template <class T>
struct Arithmetic {
  using Real = float;
};
template <>
struct Arithmetic<double> {
  using Real = double;
};
template <class T>
using Real = typename Arithmetic<T>::Real;

__device__ __forceinline__ float to_real(float x) { return x; }
__device__ __forceinline__ double to_real(double x) { return x; }
__device__ __forceinline__ float to_real(BFloat16 x) { return __bfloat162float(x); }
__device__ __forceinline__ float to_real(Float16 x) { return __half2float(x); }

template <class T>
__device__ __forceinline__ T from_real(Real<T> x) {
  return x;
}
template <>
__device__ __forceinline__ BFloat16 from_real<BFloat16>(float x) {
  return __float2bfloat16_rn(x);
}
template <>
__device__ __forceinline__ Float16 from_real<Float16>(float x) {
  return __float2half_rn(x);
}

// The largest finite number that is stored: float16 ends early.
template <class T>
constexpr double kLargest = sizeof(T) == 8 ? 1.7976931348623157e308 : 3.4028234663852886e38;
template <>
constexpr double kLargest<Float16> = 65504;
template <>
constexpr double kLargest<BFloat16> = 3.3895313892515355e38;

// N numbers side by side in memory, which are moved at once.
template <class T, int N>
struct alignas(N * sizeof(T)) Chunk {
  T numbers[N];

  __device__ __forceinline__ Real<T> operator[](int i) const { return to_real(numbers[i]); }
  __device__ __forceinline__ void set(int i, Real<T> value) { numbers[i] = from_real<T>(value); }
};

// Writes them at once; a plain assignment the compiler may take apart where several follow each other.
template <class T, int N>
__device__ __forceinline__ void store(T* to, const Chunk<T, N>& chunk) {
  if constexpr (sizeof(chunk) == sizeof(uint4)) {
    uint4 bits;
    memcpy(&bits, &chunk, sizeof(bits));
    __stwb(reinterpret_cast<uint4*>(to), bits);
  } else {
    *reinterpret_cast<Chunk<T, N>*>(to) = chunk;
  }
}

constexpr int kChunkBytes = 16;
template <class T>
constexpr int kChunkNumbers = kChunkBytes / sizeof(T);

inline bool on_chunks(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % kChunkBytes == 0; }

// Bytes of a number of enum vflow_dtype; 0 if it is none.
constexpr int64_t size_of(int dtype) {
  switch (dtype) {
    case VFLOW_FLOAT32:
      return 4;
    case VFLOW_FLOAT64:
      return 8;
    case VFLOW_BFLOAT16:
    case VFLOW_FLOAT16:
      return 2;
    default:
      return 0;
  }
}

// Calls `function` with a number of the type that `dtype` names.
template <class Function>
int with_dtype(int dtype, Function function) {
  switch (dtype) {
    case VFLOW_FLOAT32:
      return function(float{});
    case VFLOW_FLOAT64:
      return function(double{});
    case VFLOW_BFLOAT16:
      return function(BFloat16{});
    case VFLOW_FLOAT16:
      return function(Float16{});
    default:
      return VFLOW_ERROR_DTYPE;
  }
}

}  // namespace vflow::cuda
