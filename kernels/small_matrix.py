"""LU factors and the inverse of one small matrix in float64 registers, by a single program.

Rows are never swapped: a row that has been a pivot is marked, and a pivot is sought among the rest.
A NaN anywhere reaches every result; a singular matrix has log|det| of minus infinity and an inverse
that is not finite.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _pivot(a, free, k, r):
    """Column k [CP], and which row of the free ones has its largest number [CP]."""
    column = tl.sum(tl.where((r == k)[None, :], a, 0.0), 1)
    size = tl.where(column != column, float("inf"), tl.abs(column))  # a NaN wins
    size = tl.where(free != 0, size, -1.0)
    return column, r == tl.argmax(size, 0)


@triton.jit
def load_matrix(matrix, C: tl.constexpr, CP: tl.constexpr):
    """A contiguous [C, C] as float64 [CP, CP], zeros around it."""
    r = tl.arange(0, CP)
    mask = (r < C)[:, None] & (r < C)[None, :]
    return tl.load(matrix + r[:, None] * C + r[None, :], mask=mask, other=0.0).to(tl.float64)


@triton.jit
def log_abs_det(matrix, C: tl.constexpr, CP: tl.constexpr):
    """log|det| in float64 of a contiguous [C, C]."""
    r = tl.arange(0, CP)
    a = load_matrix(matrix, C, CP)
    free = (r < C).to(tl.int32)
    result = tl.sum(tl.zeros([CP], tl.float64), 0)
    for k in range(0, C):
        column, chosen = _pivot(a, free, k, r)
        row = tl.sum(tl.where(chosen[:, None], a, 0.0), 0)
        pivot = tl.sum(tl.where(chosen, column, 0.0), 0)
        result += tl.log(tl.abs(pivot))
        free = tl.where(chosen, 0, free)
        # Where the pivot is zero, so is the rest of the column.
        factor = tl.where(free != 0, column / tl.where(pivot == 0, 1.0, pivot), 0.0)
        a -= factor[:, None] * row[None, :]
    return result


@triton.jit
def invert(matrix, C: tl.constexpr, CP: tl.constexpr):
    """Rows of the inverse [CP, CP], log|det|, and which row of the inverse each of them is [CP]."""
    r = tl.arange(0, CP)
    a = load_matrix(matrix, C, CP)
    inverse = tl.where(r[:, None] == r[None, :], 1.0, 0.0).to(tl.float64)
    free = (r < C).to(tl.int32)
    place = tl.zeros([CP], tl.int32)
    log_det = tl.sum(tl.zeros([CP], tl.float64), 0)
    for k in range(0, C):
        column, chosen = _pivot(a, free, k, r)
        pivot = tl.sum(tl.where(chosen, column, 0.0), 0)
        row = tl.sum(tl.where(chosen[:, None], a, 0.0), 0) / pivot
        inverse_row = tl.sum(tl.where(chosen[:, None], inverse, 0.0), 0) / pivot
        log_det += tl.log(tl.abs(pivot))
        free = tl.where(chosen, 0, free)
        place = tl.where(chosen, k, place)
        a = tl.where(chosen[:, None], row[None, :], a - column[:, None] * row[None, :])
        inverse = tl.where(
            chosen[:, None], inverse_row[None, :], inverse - column[:, None] * inverse_row[None, :]
        )
    return inverse, log_det, place
