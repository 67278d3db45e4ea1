// Mixture-of-logistics transform on the CPU: checks, threads, and the sum of log-determinants.
#include <new>

#include "../vflow.h"
#include "mixlogistic_kernel.h"
#include "target.h"

#if defined(_OPENMP)
#include <omp.h>
#endif

namespace vflow {

// Elements of a run. A constant: runs, and so the order of every sum, do not depend on the threads.
constexpr int64_t kRun = 512;

template <class T>
static MixlogisticRun<T> select_run() {
  switch (best_target()) {
#if defined(VFLOW_HAS_x86_64_v4)
    case Target::x86_64_v4: return x86_64_v4::mixlogistic_run;
#endif
#if defined(VFLOW_HAS_x86_64_v3)
    case Target::x86_64_v3: return x86_64_v3::mixlogistic_run;
#endif
    default: return generic::mixlogistic_run;
  }
}

template <class T>
static int forward(const T* x, const T* params, T* y, T* logdet, int64_t batch, int64_t elements,
                   int64_t components, int threads) {
  if (batch < 0 || elements < 0) return VFLOW_ERROR_NEGATIVE_SIZE;
  if (components < 1) return VFLOW_ERROR_COMPONENTS;
  if (threads < 1) return VFLOW_ERROR_THREADS;
  int64_t width, row_bytes, image_bytes, bytes;
  if (__builtin_mul_overflow(components, int64_t{3}, &width) ||
      __builtin_add_overflow(width, int64_t{2}, &width) ||
      __builtin_mul_overflow(width, int64_t{64}, &row_bytes) ||
      __builtin_mul_overflow(row_bytes, elements, &image_bytes) ||
      __builtin_mul_overflow(image_bytes, batch, &bytes))
    return VFLOW_ERROR_OVERFLOW;
  if (batch == 0) return VFLOW_OK;
  if (!logdet || (elements > 0 && (!x || !params || !y))) return VFLOW_ERROR_NULL_POINTER;

  const int64_t runs_per_image = (elements + kRun - 1) / kRun, runs = batch * runs_per_image;
  if (threads > runs) threads = runs > 0 ? static_cast<int>(runs) : 1;
#if !defined(_OPENMP)
  threads = 1;
#endif
  int64_t scratch_size;
  if (__builtin_mul_overflow(scratch_bytes(components), int64_t{threads}, &scratch_size))
    return VFLOW_ERROR_OVERFLOW;
  const std::align_val_t alignment{kScratchAlignment};
  double* sums = new (std::nothrow) double[static_cast<size_t>(runs)];
  char* scratch = static_cast<char*>(
      ::operator new(static_cast<size_t>(scratch_size), alignment, std::nothrow));
  int error = VFLOW_OK;
  if (!sums || !scratch) {
    error = VFLOW_ERROR_OUT_OF_MEMORY;
  } else {
    const MixlogisticRun<T> run = select_run<T>();
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
    for (int64_t i = 0; i < runs; ++i) {
      const int64_t start = i % runs_per_image * kRun;
      const int64_t count = elements - start < kRun ? elements - start : kRun;
      const int64_t first = i / runs_per_image * elements + start;
#if defined(_OPENMP)
      char* own = scratch + omp_get_thread_num() * scratch_bytes(components);
#else
      char* own = scratch;
#endif
      sums[i] = run(x + first, params + first * width, y + first, count, components, own);
    }
    for (int64_t b = 0; b < batch; ++b) {
      double sum = 0;
      for (int64_t i = 0; i < runs_per_image; ++i) sum += sums[b * runs_per_image + i];
      logdet[b] = static_cast<T>(sum);
    }
  }
  ::operator delete(scratch, alignment);
  delete[] sums;
  return error;
}

}  // namespace vflow

int vflow_cpu_mixlogistic_f32(const float* x, const float* params, float* y, float* logdet,
                              int64_t batch, int64_t elements, int64_t components, int threads) {
  return vflow::forward(x, params, y, logdet, batch, elements, components, threads);
}

int vflow_cpu_mixlogistic_f64(const double* x, const double* params, double* y, double* logdet,
                              int64_t batch, int64_t elements, int64_t components, int threads) {
  return vflow::forward(x, params, y, logdet, batch, elements, components, threads);
}
