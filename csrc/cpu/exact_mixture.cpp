// The mixture-of-logistics transform of whole numbers, cell by cell: checks and threads.
#include "exact_mixture_kernel.h"
#include "parallel.h"

namespace vflow {

constexpr int64_t kRun = 256;
constexpr int64_t kMostNumber = int64_t{1} << 50;

static int run_all(const ExactMixtureKernels::Run (&runs)[2][2], int dtype, const ExactMixtureArrays& arrays,
                   int64_t count, int squash, int threads) {
  if (dtype != VFLOW_FLOAT32 && dtype != VFLOW_FLOAT64) return VFLOW_ERROR_DTYPE;
  if (count < 0) return VFLOW_ERROR_NEGATIVE_SIZE;
  if (arrays.components < 1) return VFLOW_ERROR_COMPONENTS;
  if (squash != 0 && squash != 1) return VFLOW_ERROR_FLAG;
  if (threads < 1) return VFLOW_ERROR_THREADS;
  if (arrays.grid < 1 || arrays.grid > 35 || arrays.cell_bits < 1 || arrays.cell_bits > arrays.grid)
    return VFLOW_ERROR_CODER;
  int64_t bytes;
  if (__builtin_mul_overflow(arrays.components, int64_t{16 * 64}, &bytes) ||
      __builtin_mul_overflow(bytes, count, &bytes))
    return VFLOW_ERROR_OVERFLOW;
  if (count == 0) return VFLOW_OK;
  if (!arrays.input || !arrays.params || !arrays.lower || !arrays.width) return VFLOW_ERROR_NULL_POINTER;
  bool outside = false;
  for (int64_t i = 0; i < count; ++i)
    outside |= arrays.input[i] < -kMostNumber || arrays.input[i] > kMostNumber;
  if (outside) return VFLOW_ERROR_CODER_RANGE;
  const ExactMixtureKernels& kernels = VFLOW_BEST_KERNELS(exact_mixture_kernels);
  const int64_t pieces = (count + kRun - 1) / kRun, room = kernels.scratch_bytes(arrays.components);
  threads = threads_for(pieces, threads);
  const Scratch scratch = allocate(room, threads);
  if (!scratch) return VFLOW_ERROR_OUT_OF_MEMORY;
  parallel_for(pieces, threads, [&](int64_t i, int thread) {
    const int64_t first = i * kRun;
    runs[dtype][squash](arrays, first, count - first < kRun ? count - first : kRun,
                        scratch.get() + thread * aligned(room));
  });
  return VFLOW_OK;
}

}  // namespace vflow

using namespace vflow;

int vflow_cpu_exact_mixture_cells(int dtype, const int64_t* x, const void* params, int64_t* lower,
                                  int64_t* width, int64_t count, int64_t components, int squash, int grid,
                                  int cell_bits, int threads) {
  return run_all(VFLOW_BEST_KERNELS(exact_mixture_kernels).cells, dtype,
                 {x, params, nullptr, lower, width, components, grid, cell_bits}, count, squash, threads);
}

int vflow_cpu_exact_mixture_find(int dtype, const int64_t* y, const void* params, int64_t* cell,
                                 int64_t* lower, int64_t* width, int64_t count, int64_t components,
                                 int squash, int grid, int cell_bits, int threads) {
  if (count > 0 && !cell) return VFLOW_ERROR_NULL_POINTER;
  return run_all(VFLOW_BEST_KERNELS(exact_mixture_kernels).find, dtype,
                 {y, params, cell, lower, width, components, grid, cell_bits}, count, squash, threads);
}
