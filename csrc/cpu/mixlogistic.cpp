// Mixture-of-logistics transform on the CPU: checks, threads, and the sum of log-determinants.
#include "mixlogistic_kernel.h"
#include "parallel.h"

namespace vflow {

// Elements of a run. A constant: runs, and so the order of every sum, do not depend on the threads.
constexpr int64_t kRun = 512;

struct Sizes {
  int64_t batch, elements, components;
};

static int check(int dtype, const Sizes& sizes, int squash, int threads) {
  if (dtype < 0 || dtype >= kDtypes) return VFLOW_ERROR_DTYPE;
  if (sizes.batch < 0 || sizes.elements < 0) return VFLOW_ERROR_NEGATIVE_SIZE;
  if (sizes.components < 1) return VFLOW_ERROR_COMPONENTS;
  if (squash != 0 && squash != 1) return VFLOW_ERROR_FLAG;
  if (threads < 1) return VFLOW_ERROR_THREADS;
  int64_t bytes;  // of params, and of a run's scratch
  if (__builtin_mul_overflow(sizes.components, int64_t{16 * 64}, &bytes) ||
      __builtin_mul_overflow(bytes, sizes.elements, &bytes) ||
      __builtin_mul_overflow(bytes, sizes.batch, &bytes))
    return VFLOW_ERROR_OVERFLOW;
  return VFLOW_OK;
}

// Runs over all elements; sums what the runs return to logdet [batch], if there is one.
template <class Run>
static int for_runs(const Sizes& sizes, int dtype, void* logdet, int threads, Run run,
                    const MixlogisticArrays& arrays, int64_t scratch_bytes) {
  const int64_t runs_per_image = (sizes.elements + kRun - 1) / kRun;
  const int64_t runs = sizes.batch * runs_per_image;
  threads = threads_for(runs, threads);
  const Scratch scratch = allocate(scratch_bytes, threads);
  const Scratch memory = allocate(static_cast<int64_t>(sizeof(double)), runs / (int64_t{kAlignment} / 8) + 1);
  if (!scratch || !memory) return VFLOW_ERROR_OUT_OF_MEMORY;
  double* sums = reinterpret_cast<double*>(memory.get());
  parallel_for(runs, threads, [&](int64_t i, int thread) {
    const int64_t image = i / runs_per_image, start = i % runs_per_image * kRun;
    const int64_t count = sizes.elements - start < kRun ? sizes.elements - start : kRun;
    sums[i] = run(arrays, image, image * sizes.elements + start, count,
                  scratch.get() + thread * aligned(scratch_bytes));
  });
  if (!logdet) return VFLOW_OK;
  for (int64_t b = 0; b < sizes.batch; ++b) {
    double sum = 0;
    for (int64_t i = 0; i < runs_per_image; ++i) sum += sums[b * runs_per_image + i];
    if (dtype == VFLOW_FLOAT64)
      static_cast<double*>(logdet)[b] = sum;
    else
      static_cast<float*>(logdet)[b] = static_cast<float>(sum);
  }
  return VFLOW_OK;
}

static int transform(const MixlogisticKernels::Run (&runs)[kDtypes][2], int dtype, const RowsView& input,
                     const void* params, void* output, void* logdet, const Sizes& sizes, int squash,
                     int threads) {
  int error = check(dtype, sizes, squash, threads);
  if (error || sizes.batch == 0) return error;
  if (!logdet || (sizes.elements > 0 && (!params || !output))) return VFLOW_ERROR_NULL_POINTER;
  error = input.check(sizes.batch * sizes.elements);
  if (error) return error;
  MixlogisticArrays arrays{};
  arrays.input = input;
  arrays.params = params;
  arrays.output = output;
  arrays.components = sizes.components;
  const MixlogisticKernels& kernels = VFLOW_BEST_KERNELS(mixlogistic_kernels);
  return for_runs(sizes, dtype, logdet, threads, runs[dtype][squash], arrays,
                  kernels.scratch_bytes(sizes.components));
}

}  // namespace vflow

using namespace vflow;

int vflow_cpu_mixlogistic(int dtype, const void* x, int64_t x_row, int64_t x_stride, const void* params,
                          void* y, void* logdet, int64_t batch, int64_t elements, int64_t components,
                          int squash, int threads) {
  return transform(VFLOW_BEST_KERNELS(mixlogistic_kernels).forward, dtype, {x, x_row, x_stride}, params, y,
                   logdet, {batch, elements, components}, squash, threads);
}

int vflow_cpu_mixlogistic_inverse(int dtype, const void* y, int64_t y_row, int64_t y_stride,
                                  const void* params, void* x, void* logdet, int64_t batch, int64_t elements,
                                  int64_t components, int squash, int threads) {
  return transform(VFLOW_BEST_KERNELS(mixlogistic_kernels).inverse, dtype, {y, y_row, y_stride}, params, x,
                   logdet, {batch, elements, components}, squash, threads);
}

int vflow_cpu_mixlogistic_backward(int dtype, const void* grad_y, int64_t grad_y_row, int64_t grad_y_stride,
                                   const void* grad_logdet, const void* x, int64_t x_row, int64_t x_stride,
                                   const void* params, void* grad_x, void* grad_params, int64_t batch,
                                   int64_t elements, int64_t components, int squash, int threads) {
  const Sizes sizes{batch, elements, components};
  int error = check(dtype, sizes, squash, threads);
  if (error || batch == 0 || elements == 0) return error;
  if (!grad_logdet || !params || !grad_x || !grad_params) return VFLOW_ERROR_NULL_POINTER;
  MixlogisticArrays arrays{};
  arrays.input = {x, x_row, x_stride};
  arrays.grad_y = {grad_y, grad_y_row, grad_y_stride};
  error = arrays.input.check(batch * elements);
  if (!error) error = arrays.grad_y.check(batch * elements);
  if (error) return error;
  arrays.params = params;
  arrays.output = grad_x;
  arrays.grad_logdet = grad_logdet;
  arrays.grad_params = grad_params;
  arrays.components = components;
  const int64_t bytes = batch * elements * (2 + 3 * components) * size_of(dtype);
  arrays.stream = bytes >= kLargeBytes;
  prepare_output(grad_params, bytes);
  const MixlogisticKernels& kernels = VFLOW_BEST_KERNELS(mixlogistic_kernels);
  return for_runs(sizes, dtype, nullptr, threads, kernels.backward[dtype][squash], arrays,
                  kernels.scratch_bytes(components));
}
