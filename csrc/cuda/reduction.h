// Sums of partial results in an order that depends on their number alone: no atomics.
#pragma once

#include "launch.h"

namespace vflow::cuda {

// The sum of every lane's number, the same bits in every lane.
template <class V>
__device__ __forceinline__ V sum_over_lanes(V number, int lanes = kWarp) {
  for (int step = lanes / 2; step > 0; step /= 2) number += __shfl_xor_sync(kAllLanes, number, step);
  return number;
}

// The sum of the block's numbers, in its first thread. `room` is for a number a warp.
__device__ __forceinline__ double sum_over_block(double number, double* room) {
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, warps = blockDim.x / kWarp;
  number = sum_over_lanes(number);
  if (lane == 0) room[warp] = number;
  __syncthreads();
  double sum = 0;
  if (threadIdx.x == 0)
    for (int w = 0; w < warps; ++w) sum += room[w];
  return sum;
}

// partials [sums, terms] -> their sums [sums], float or double as `real` says. A block a sum.
int sum_rows(cudaStream_t stream, const double* partials, int64_t sums, int64_t terms, void* results,
             bool is_double);

// partials [terms, sums] -> their sums [sums]. 32 sums a block.
int sum_columns(cudaStream_t stream, const void* partials, int64_t terms, int64_t sums, void* results,
                bool is_double);

}  // namespace vflow::cuda
