"""elu of a tensor beside its negative with dropout, and its gradient, which draws the mask again.

As kernels/concat_elu.py, but with rows in pairs: their four halves are the four rows that share
dropout's counters.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from vflow.kernels.concat_elu import gradient_of, halves_of
from vflow.kernels.dropout import dropout_factors, plan
from vflow.kernels.launch import on_device


@triton.jit
def _forward_row(x, y, same_factor, opposite_factor, live, C: tl.constexpr, REAL: tl.constexpr):
    same, opposite = halves_of(tl.load(x, mask=live, other=0.0).to(REAL))
    stored: tl.constexpr = y.dtype.element_ty
    tl.store(y, (same * same_factor).to(stored), mask=live)
    tl.store(y + C, (opposite * opposite_factor).to(stored), mask=live)


@triton.jit
def _backward_row(
    grad, x, grad_x, same_factor, opposite_factor, live, C: tl.constexpr, REAL: tl.constexpr
):
    same = tl.load(grad, mask=live, other=0.0).to(REAL) * same_factor
    opposite = tl.load(grad + C, mask=live, other=0.0).to(REAL) * opposite_factor
    gradient = gradient_of(tl.load(x, mask=live, other=0.0).to(REAL), same, opposite)
    tl.store(grad_x, gradient.to(grad_x.dtype.element_ty), mask=live)


@triton.jit
def _forward_kernel(
    x,
    seed,
    y,
    rows,
    C: tl.constexpr,
    PAIRS: tl.constexpr,
    TILE: tl.constexpr,
    THRESHOLD: tl.constexpr,
    SCALE: tl.constexpr,
    REAL: tl.constexpr,
):
    first = tl.program_id(0).to(tl.int64) * PAIRS
    i = tl.arange(0, TILE)
    pair = i // C
    f0, f1, f2, f3 = dropout_factors(seed, first * C + i, THRESHOLD, SCALE, REAL)
    row = (first + pair) * 2
    inside = i < PAIRS * C
    x += first * (2 * C) + i + pair * C  # pair * 2C + channel
    y += first * (4 * C) + i + pair * (3 * C)
    _forward_row(x, y, f0, f1, inside & (row < rows), C, REAL)
    _forward_row(x + C, y + 2 * C, f2, f3, inside & (row + 1 < rows), C, REAL)


@triton.jit
def _backward_kernel(
    grad,
    x,
    seed,
    grad_x,
    rows,
    C: tl.constexpr,
    PAIRS: tl.constexpr,
    TILE: tl.constexpr,
    THRESHOLD: tl.constexpr,
    SCALE: tl.constexpr,
    REAL: tl.constexpr,
):
    first = tl.program_id(0).to(tl.int64) * PAIRS
    i = tl.arange(0, TILE)
    pair = i // C
    f0, f1, f2, f3 = dropout_factors(seed, first * C + i, THRESHOLD, SCALE, REAL)
    row = (first + pair) * 2
    inside = i < PAIRS * C
    grad += first * (4 * C) + i + pair * (3 * C)
    at = first * (2 * C) + i + pair * C
    _backward_row(grad, x + at, grad_x + at, f0, f1, inside & (row < rows), C, REAL)
    at += C
    _backward_row(grad + 2 * C, x + at, grad_x + at, f2, f3, inside & (row + 1 < rows), C, REAL)


def concat_elu_dropout(x: Tensor, seed: Tensor, dropout: float) -> Tensor:
    """Launch elu([x, -x]) and dropout of it: [..., C] -> [..., 2C], contiguous."""
    x, seed = x.contiguous(), seed.contiguous()
    y = torch.empty((*x.shape[:-1], 2 * x.shape[-1]), dtype=x.dtype, device=x.device)
    if x.numel() > 0:
        rows = x.numel() // x.shape[-1]
        pairs, constants = plan(x, dropout)
        with on_device(x):
            _forward_kernel[(triton.cdiv(rows, 2 * pairs),)](
                x, seed, y, rows, PAIRS=pairs, **constants
            )
    return y


def concat_elu_dropout_backward(grad: Tensor, x: Tensor, seed: Tensor, dropout: float) -> Tensor:
    """Launch the gradient of x [..., C], recomputed from x and the seed."""
    grad, x, seed = grad.contiguous(), x.contiguous(), seed.contiguous()
    grad_x = torch.empty_like(x)
    if x.numel() > 0:
        rows = x.numel() // x.shape[-1]
        pairs, constants = plan(x, dropout)
        with on_device(x):
            _backward_kernel[(triton.cdiv(rows, 2 * pairs),)](
                grad, x, seed, grad_x, rows, PAIRS=pairs, **constants
            )
    return grad_x
