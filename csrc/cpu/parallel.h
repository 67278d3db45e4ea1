// Work shared among threads, and memory that knows how to go.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include <memory>
#include <new>

#if defined(_OPENMP)
#include <omp.h>
#endif
#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace vflow {

constexpr size_t kAlignment = 64;

struct AlignedDelete {
  void operator()(void* memory) const { ::operator delete(memory, std::align_val_t{kAlignment}); }
};
using Scratch = std::unique_ptr<char, AlignedDelete>;

// `size` rounded up, so that what follows it stays aligned.
constexpr int64_t aligned(int64_t size) {
  return (size + int64_t{kAlignment} - 1) / int64_t{kAlignment} * int64_t{kAlignment};
}

// `count` pieces of aligned(size) bytes; null if there is no such memory.
inline Scratch allocate(int64_t size, int64_t count) {
  int64_t bytes;
  if (__builtin_mul_overflow(aligned(size), count, &bytes)) return nullptr;
  return Scratch(static_cast<char*>(
      ::operator new(static_cast<size_t>(bytes), std::align_val_t{kAlignment}, std::nothrow)));
}

// Outputs larger than this leave the last level of cache before anybody reads them.
constexpr int64_t kLargeBytes = int64_t{8} << 20;

// Asks for huge pages under an output that has room for one and is about to be written for the first time:
// the kernel's page faults take several times as long as the mathematics. No more than a wish.
inline void prepare_output(void* memory, int64_t bytes) {
#if defined(__linux__)
  constexpr uintptr_t page = uintptr_t{2} << 20;
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(memory) + page - 1) / page * page;
  const uintptr_t end = (reinterpret_cast<uintptr_t>(memory) + static_cast<uintptr_t>(bytes)) / page * page;
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#else
  (void)memory, (void)bytes;
#endif
}

// Threads that `work` pieces of work can use.
inline int threads_for(int64_t work, int threads) {
#if defined(_OPENMP)
  return threads < work ? threads : (work > 0 ? static_cast<int>(work) : 1);
#else
  (void)work, (void)threads;
  return 1;
#endif
}

// Calls function(i, thread) for every i below `count`; thread is below `threads`.
template <class Function>
void parallel_for(int64_t count, int threads, const Function& function) {
#if defined(_OPENMP)
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
  for (int64_t i = 0; i < count; ++i) function(i, threads > 1 ? omp_get_thread_num() : 0);
#else
  (void)threads;
  for (int64_t i = 0; i < count; ++i) function(i, 0);
#endif
}

}  // namespace vflow
