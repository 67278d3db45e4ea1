// LU factors of a small matrix with partial pivoting, its log-determinant and its inverse, in double.
//
// All inner loops run along rows, side by side in memory.
#pragma once

#include <math.h>
#include <stdint.h>

#include "math.h"

namespace vflow::VFLOW_TARGET {

// Replaces a [n, n] by its factors: L below the diagonal, whose own diagonal is 1, and U. Row i of the
// factors was row order[i] of the matrix. Returns log|det|: minus infinity if the matrix is singular.
VFLOW_INLINE double lu_factor(double* a, int64_t n, int64_t* order) {
  for (int64_t i = 0; i < n; ++i) order[i] = i;
  double log_det = 0;
  for (int64_t k = 0; k < n; ++k) {
    int64_t pivot = k;
    for (int64_t i = k + 1; i < n; ++i)
      if (!(magnitude(a[i * n + k]) <= magnitude(a[pivot * n + k]))) pivot = i;  // a NaN wins
    if (pivot != k) {
      for (int64_t j = 0; j < n; ++j) {
        const double number = a[k * n + j];
        a[k * n + j] = a[pivot * n + j];
        a[pivot * n + j] = number;
      }
      const int64_t row = order[k];
      order[k] = order[pivot];
      order[pivot] = row;
    }
    const double diagonal = a[k * n + k];
    log_det += ::log(magnitude(diagonal));
    if (diagonal == 0) continue;  // the column is zero from here on down
    const double* top = a + k * n;
    for (int64_t i = k + 1; i < n; ++i) {
      double* row = a + i * n;
      const double factor = row[k] / diagonal;
      row[k] = factor;
      for (int64_t j = k + 1; j < n; ++j) row[j] -= factor * top[j];
    }
  }
  return log_det;
}

// The inverse [n, n] of what lu_factor has factored; NaN throughout if it is singular.
VFLOW_INLINE void lu_inverse(const double* factors, int64_t n, const int64_t* order, double* inverse) {
  bool singular = false;
  for (int64_t i = 0; i < n; ++i) singular |= factors[i * n + i] == 0;
  for (int64_t i = 0; i < n * n; ++i) inverse[i] = singular ? NAN : 0.0;
  if (singular) return;
  for (int64_t i = 0; i < n; ++i) inverse[i * n + order[i]] = 1;
  for (int64_t i = 1; i < n; ++i)
    for (int64_t k = 0; k < i; ++k) {
      const double factor = factors[i * n + k];
      for (int64_t j = 0; j < n; ++j) inverse[i * n + j] -= factor * inverse[k * n + j];
    }
  for (int64_t i = n - 1; i >= 0; --i) {
    for (int64_t k = i + 1; k < n; ++k) {
      const double factor = factors[i * n + k];
      for (int64_t j = 0; j < n; ++j) inverse[i * n + j] -= factor * inverse[k * n + j];
    }
    const double diagonal = factors[i * n + i];
    for (int64_t j = 0; j < n; ++j) inverse[i * n + j] /= diagonal;
  }
}

}  // namespace vflow::VFLOW_TARGET
