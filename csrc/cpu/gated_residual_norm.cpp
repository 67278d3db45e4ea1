// gated_residual_norm on the CPU: checks, threads, and the sums over the rows.
#include "gated_residual_norm_kernel.h"
#include "row_runs.h"

namespace vflow {

static int check(int dtype, int64_t rows, int64_t features, int threads) {
  if (dtype < 0 || dtype >= kDtypes) return VFLOW_ERROR_DTYPE;
  if (rows < 0) return VFLOW_ERROR_NEGATIVE_SIZE;
  if (features < 1) return VFLOW_ERROR_CHANNELS;
  if (threads < 1) return VFLOW_ERROR_THREADS;
  int64_t bytes;  // of ab, and of a run's scratch
  if (__builtin_mul_overflow(features, int64_t{8 * 128}, &bytes) ||
      __builtin_mul_overflow(bytes, rows, &bytes))
    return VFLOW_ERROR_OVERFLOW;
  return VFLOW_OK;
}

static void prepare_outputs(int dtype, int64_t rows, GatedResidualNormArrays& arrays) {
  const int64_t bytes = rows * arrays.features * size_of(dtype);
  arrays.stream = (arrays.grad_ab ? 3 : 1) * bytes >= kLargeBytes;
  prepare_output(arrays.output, bytes);
  if (arrays.grad_ab) prepare_output(arrays.grad_ab, 2 * bytes);
}

// Sums the runs' parts [runs, count], in their order, by way of `sums`.
template <class C>
static void sum_parts(const char* parts, int64_t runs, int64_t count, double* sums, void* total) {
  const auto* numbers = reinterpret_cast<const C*>(parts);
  for (int64_t j = 0; j < count; ++j) sums[j] = 0;
  for (int64_t i = 0; i < runs; ++i)
    for (int64_t j = 0; j < count; ++j) sums[j] += static_cast<double>(numbers[i * count + j]);
  for (int64_t j = 0; j < count; ++j) static_cast<C*>(total)[j] = static_cast<C>(sums[j]);
}

}  // namespace vflow

using namespace vflow;

int vflow_cpu_gated_residual_norm(int dtype, const void* x, const void* ab, const void* weight,
                                  const void* bias, void* y, int64_t rows, int64_t features, int threads) {
  const int error = check(dtype, rows, features, threads);
  if (error || rows == 0) return error;
  if (!x || !ab || !weight || !bias || !y) return VFLOW_ERROR_NULL_POINTER;
  GatedResidualNormArrays arrays{x, ab, weight, bias, y, nullptr, nullptr, features, false};
  prepare_outputs(dtype, rows, arrays);
  const GatedResidualNormKernels& kernels = VFLOW_BEST_KERNELS(gated_residual_norm_kernels);
  const bool done = for_row_runs(rows, features, threads, kernels.scratch_bytes(features),
                                 [&](int64_t, int64_t first, int64_t count, void* scratch) {
                                   kernels.forward[dtype](arrays, first, count, scratch, nullptr);
                                 });
  return done ? VFLOW_OK : VFLOW_ERROR_OUT_OF_MEMORY;
}

int vflow_cpu_gated_residual_norm_backward(int dtype, const void* grad, const void* x, const void* ab,
                                           const void* weight, void* grad_x, void* grad_ab,
                                           void* grad_weight_bias, int64_t rows, int64_t features,
                                           int threads) {
  const int error = check(dtype, rows, features, threads);
  if (error) return error;
  if (!grad_weight_bias || (rows > 0 && (!grad || !x || !ab || !weight || !grad_x || !grad_ab)))
    return VFLOW_ERROR_NULL_POINTER;
  const int64_t runs = runs_of_rows(rows, features), real = dtype == VFLOW_FLOAT64 ? 8 : 4;
  const Scratch parts = allocate(2 * features * real, runs + 1);
  const Scratch sums = allocate(2 * features * 8, 1);
  if (!parts || !sums) return VFLOW_ERROR_OUT_OF_MEMORY;
  GatedResidualNormArrays arrays{x, ab, weight, nullptr, grad_x, grad, grad_ab, features, false};
  prepare_outputs(dtype, rows, arrays);
  const GatedResidualNormKernels& kernels = VFLOW_BEST_KERNELS(gated_residual_norm_kernels);
  const bool done = for_row_runs(rows, features, threads, kernels.scratch_bytes(features),
                                 [&](int64_t i, int64_t first, int64_t count, void* scratch) {
                                   kernels.backward[dtype](arrays, first, count, scratch,
                                                           parts.get() + i * 2 * features * real);
                                 });
  if (!done) return VFLOW_ERROR_OUT_OF_MEMORY;
  auto* room = reinterpret_cast<double*>(sums.get());
  const auto sum = dtype == VFLOW_FLOAT64 ? sum_parts<double> : sum_parts<float>;
  sum(parts.get(), runs, 2 * features, room, grad_weight_bias);
  return VFLOW_OK;
}
