"""Sums of partial results in an order that depends on their number alone: no atomics."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from vflow.kernels.launch import power_of_two

_TILE = 2048


@triton.jit
def _sum_kernel(
    partials,
    sums,
    count,
    terms,
    sum_stride,
    term_stride,
    SUMS: tl.constexpr,
    TERMS: tl.constexpr,
):
    """Write SUMS of the sums, each over `terms` numbers, accumulated in float64."""
    n = tl.program_id(0).to(tl.int64) * SUMS + tl.arange(0, SUMS)
    t = tl.arange(0, TERMS)
    total = tl.zeros([SUMS, TERMS], tl.float64)
    for first in range(0, terms, TERMS):
        term = first + t
        offset = n[:, None] * sum_stride + term[None, :].to(tl.int64) * term_stride
        live = (n < count)[:, None] & (term < terms)[None, :]
        total += tl.load(partials + offset, mask=live, other=0.0).to(tl.float64)
    tl.store(sums + n, tl.sum(total, 1).to(sums.dtype.element_ty), mask=n < count)


def sum_rows(partials: Tensor) -> Tensor:
    """Sum [N, terms] to [N], in partials' dtype."""
    return _sum(partials, *partials.shape, partials.stride(0), partials.stride(1))


def sum_columns(partials: Tensor) -> Tensor:
    """Sum [terms, N] to [N], in partials' dtype."""
    return _sum(partials, *partials.shape[::-1], partials.stride(1), partials.stride(0))


def _sum(partials: Tensor, count: int, terms: int, sum_stride: int, term_stride: int) -> Tensor:
    sums = torch.empty(count, dtype=partials.dtype, device=partials.device)
    if count == 0:
        return sums
    # Lanes side by side in memory: the terms of one sum, or one term of neighbouring sums.
    most_terms = _TILE if term_stride == 1 else _TILE // 32
    tile_terms = min(power_of_two(terms), most_terms)
    tile_sums = min(power_of_two(count), max(_TILE // 4 // tile_terms, 1))
    _sum_kernel[(triton.cdiv(count, tile_sums),)](
        partials,
        sums,
        count,
        terms,
        sum_stride,
        term_stride,
        SUMS=tile_sums,
        TERMS=tile_terms,
        enable_fp_fusion=True,
    )
    return sums
