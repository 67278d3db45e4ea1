// Runs of rows shared among threads, for operations on rows that are independent of each other.
#pragma once

#include <stdint.h>

#include "parallel.h"

namespace vflow {

// Rows of a run: some ten thousand numbers' worth, and whole groups of rows. Runs, and so the order of
// every sum over them, depend on the width alone.
inline int64_t rows_of_run(int64_t width) {
  const int64_t rows = int64_t{8192} / width / 16 * 16;
  return rows < 32 ? 32 : rows > 512 ? 512 : rows;
}

inline int64_t runs_of_rows(int64_t rows, int64_t width) {
  const int64_t run = rows_of_run(width);
  return (rows + run - 1) / run;
}

// Calls run(i, first, rows, scratch) for every run i, with `scratch_bytes` of its thread's own. Returns
// whether there was memory for them.
template <class Run>
bool for_row_runs(int64_t rows, int64_t width, int threads, int64_t scratch_bytes, const Run& run) {
  const int64_t runs = runs_of_rows(rows, width), length = rows_of_run(width);
  threads = threads_for(runs, threads);
  const Scratch scratch = allocate(scratch_bytes, threads);
  if (!scratch) return false;
  parallel_for(runs, threads, [&](int64_t i, int thread) {
    const int64_t first = i * length;
    run(i, first, rows - first < length ? rows - first : length,
        scratch.get() + thread * aligned(scratch_bytes));
  });
  return true;
}

}  // namespace vflow
