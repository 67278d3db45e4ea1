// The determinant and the inverse of one small matrix in double, by the threads of a block.
//
// A warp takes a row at a time, lanes side by side along it. Rows never change places: one that has been a
// pivot is marked, and a pivot is sought among the rest. A NaN anywhere reaches every result; a singular
// matrix has log|det| of minus infinity and an inverse of NaN.
#pragma once

#include "launch.h"
#include "numbers.h"

namespace vflow::cuda {

constexpr int kMostChannels = 1024;

// Room for a matrix [n, n] being worked on: the matrix itself, and what its threads tell one another.
struct MatrixRoom {
  double *matrix, *pivot_row, *column;  // [n, n], [n], [n]
  int* place;                           // [n]: row i is the pivot of this column, -1 if of none yet
  int* pivot_of;                        // [n]: the row that is the pivot of column k

  static constexpr int64_t vector_bytes(int64_t n) {
    return n * int64_t{2 * sizeof(double) + 2 * sizeof(int)};
  }
  static constexpr int64_t matrix_bytes(int64_t n) { return n * n * int64_t{sizeof(double)}; }

  __device__ __forceinline__ MatrixRoom(double* matrix, void* vectors, int n)
      : matrix(matrix),
        pivot_row(static_cast<double*>(vectors)),
        column(pivot_row + n),
        place(reinterpret_cast<int*>(column + n)),
        pivot_of(place + n) {}

  template <class T>
  __device__ __forceinline__ void load(const T* from, int n) const {
    for (int i = threadIdx.x; i < n * n; i += blockDim.x) matrix[i] = to_real(from[i]);
    for (int i = threadIdx.x; i < n; i += blockDim.x) place[i] = -1;
    __syncthreads();
  }

  // Chooses the pivot of column k: of the rows left, the first whose number there is largest. To be called by
  // a whole warp.
  __device__ __forceinline__ void choose_pivot(int n, int k) const {
    const int lane = threadIdx.x % kWarp;
    double largest = -1;
    int found = n;
    for (int i = lane; i < n; i += kWarp) {
      if (place[i] >= 0) continue;
      const double number = matrix[i * n + k];
      const double size = number == number ? fabs(number) : static_cast<double>(INFINITY);  // a NaN wins
      if (size <= largest) continue;
      largest = size;
      found = i;
    }
    for (int step = kWarp / 2; step > 0; step /= 2) {
      const double size = __shfl_xor_sync(kAllLanes, largest, step);
      const int row = __shfl_xor_sync(kAllLanes, found, step);
      if (size < largest || (size == largest && row >= found)) continue;
      largest = size;
      found = row;
    }
    if (lane > 0) return;
    place[found] = k;
    pivot_of[k] = found;
  }

  // log|det| of the loaded matrix, which is lost, in every thread.
  __device__ __forceinline__ double log_abs_det(int n) const {
    const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, warps = blockDim.x / kWarp;
    double result = 0;
    for (int k = 0; k < n; ++k) {
      if (warp == 0) choose_pivot(n, k);
      __syncthreads();
      const double* top = matrix + pivot_of[k] * n;
      const double pivot = top[k],
                   inverse = pivot == 0 ? 0 : 1 / pivot;  // zero: so is the rest of the column
      result += ::log(fabs(pivot));
      for (int i = warp; i < n; i += warps) {
        if (place[i] >= 0) continue;
        double* row = matrix + i * n;
        const double factor = row[k] * inverse;
        for (int j = k + 1 + lane; j < n; j += kWarp) row[j] -= factor * top[j];
      }
      __syncthreads();
    }
    return result;
  }

  // Replaces the loaded matrix by its inverse, rows and columns in the order of the pivots: see inverse().
  // Returns log|det| in every thread. The matrix takes x to y; step by step, a component of x and one of y
  // change sides.
  __device__ __forceinline__ double invert(int n) const {
    const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, warps = blockDim.x / kWarp;
    double result = 0;
    for (int k = 0; k < n; ++k) {
      if (warp == 0) choose_pivot(n, k);
      __syncthreads();
      const int p = pivot_of[k];
      for (int i = threadIdx.x; i < n; i += blockDim.x) {
        pivot_row[i] = matrix[p * n + i];
        column[i] = matrix[i * n + k];
      }
      __syncthreads();
      const double pivot = pivot_row[k];
      const double inverse = pivot == 0 ? static_cast<double>(NAN) : 1 / pivot;
      result += ::log(fabs(pivot));
      for (int i = warp; i < n; i += warps) {
        double* row = matrix + i * n;
        const double factor = column[i] * inverse;
        for (int j = lane; j < n; j += kWarp) {
          if (i == p)
            row[j] = j == k ? inverse : -pivot_row[j] * inverse;
          else
            row[j] = j == k ? factor : row[j] - factor * pivot_row[j];
        }
      }
      __syncthreads();
    }
    return result;
  }

  // A number of the inverse.
  __device__ __forceinline__ double inverse(int n, int row, int column) const {
    return matrix[pivot_of[row] * n + place[column]];
  }
};

}  // namespace vflow::cuda
