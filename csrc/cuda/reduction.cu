// The second launch of whatever adds up partial results.
#include "reduction.h"

namespace vflow::cuda {

constexpr int kColumnTerms = 16;  // lines of partials that a block of sum_columns reads side by side

template <class Real>
__global__ void __launch_bounds__(kThreads)
    sum_rows_kernel(const double* __restrict__ partials, int64_t terms, Real* __restrict__ results) {
  partials += blockIdx.x * terms;
  double sum = 0;
  for (int64_t t = threadIdx.x; t < terms; t += kThreads) sum += partials[t];
  sum = sum_over_block(sum, shared_memory<double>());
  if (threadIdx.x == 0) results[blockIdx.x] = static_cast<Real>(sum);
}

template <class Real>
__global__ void __launch_bounds__(kWarp* kColumnTerms)
    sum_columns_kernel(const Real* __restrict__ partials, int64_t terms, int64_t sums,
                       Real* __restrict__ results) {
  double* room = shared_memory<double>();
  const int lane = threadIdx.x % kWarp, line = threadIdx.x / kWarp;
  const int64_t column = int64_t{blockIdx.x} * kWarp + lane;
  double sum = 0;
  if (column < sums)
    for (int64_t t = line; t < terms; t += kColumnTerms) sum += partials[t * sums + column];
  room[threadIdx.x] = sum;
  __syncthreads();
  if (line > 0 || column >= sums) return;
  for (int other = 1; other < kColumnTerms; ++other) sum += room[other * kWarp + lane];
  results[column] = static_cast<Real>(sum);
}

int sum_rows(cudaStream_t stream, const double* partials, int64_t sums, int64_t terms, void* results,
             bool is_double) {
  constexpr int64_t shared = kThreads / kWarp * sizeof(double);
  if (is_double)
    return launch(stream, sums, kThreads, shared, sum_rows_kernel<double>, partials, terms,
                  static_cast<double*>(results));
  return launch(stream, sums, kThreads, shared, sum_rows_kernel<float>, partials, terms,
                static_cast<float*>(results));
}

int sum_columns(cudaStream_t stream, const void* partials, int64_t terms, int64_t sums, void* results,
                bool is_double) {
  constexpr int threads = kWarp * kColumnTerms;
  constexpr int64_t shared = threads * sizeof(double);
  const int64_t blocks = quotient_up(sums, kWarp);
  if (is_double)
    return launch(stream, blocks, threads, shared, sum_columns_kernel<double>,
                  static_cast<const double*>(partials), terms, sums, static_cast<double*>(results));
  return launch(stream, blocks, threads, shared, sum_columns_kernel<float>,
                static_cast<const float*>(partials), terms, sums, static_cast<float*>(results));
}

}  // namespace vflow::cuda
