"""elu of a tensor beside its negative, and its gradient: one read, one write, no index per element.

A program takes whole rows as one flat run, so that lanes load 16 bytes wherever rows are multiples
of 16 bytes, and the tile wastes less than a row.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from vflow.kernels.launch import on_device, power_of_two, real_type
from vflow.kernels.math import exp, expm1_of_negative

_TILE, _WARPS = 1024, 4


@triton.jit
def halves_of(x):
    """elu(x) and elu(-x)."""
    below = expm1_of_negative(-tl.abs(x))
    return tl.where(x > 0, x, below), tl.where(x > 0, below, -x)


@triton.jit
def gradient_of(x, same, opposite):
    """The gradient of x, for those of its two halves."""
    # The derivative is 1 on the positive side of each half and exp(-|x|) on its negative one.
    slope = exp(-tl.abs(x))
    return tl.where(x > 0, same - opposite * slope, same * slope - opposite)


@triton.jit
def _forward_kernel(
    x, y, rows, C: tl.constexpr, ROWS: tl.constexpr, TILE: tl.constexpr, REAL: tl.constexpr
):
    first = tl.program_id(0).to(tl.int64) * ROWS
    i = tl.arange(0, TILE)
    row = i // C
    live = (i < ROWS * C) & (first + row < rows)
    same, opposite = halves_of(tl.load(x + first * C + i, mask=live, other=0.0).to(REAL))
    y += first * (2 * C)
    out = i + row * C  # row * 2C + channel
    stored: tl.constexpr = y.dtype.element_ty
    tl.store(y + out, same.to(stored), mask=live)
    tl.store(y + C + out, opposite.to(stored), mask=live)


@triton.jit
def _backward_kernel(
    grad,
    x,
    grad_x,
    rows,
    C: tl.constexpr,
    ROWS: tl.constexpr,
    TILE: tl.constexpr,
    REAL: tl.constexpr,
):
    first = tl.program_id(0).to(tl.int64) * ROWS
    i = tl.arange(0, TILE)
    row = i // C
    live = (i < ROWS * C) & (first + row < rows)
    x_i = tl.load(x + first * C + i, mask=live, other=0.0).to(REAL)
    grad += first * (2 * C)
    same = tl.load(grad + i + row * C, mask=live, other=0.0).to(REAL)
    opposite = tl.load(grad + C + i + row * C, mask=live, other=0.0).to(REAL)
    gradient = gradient_of(x_i, same, opposite)
    tl.store(grad_x + first * C + i, gradient.to(grad_x.dtype.element_ty), mask=live)


def concat_elu(x: Tensor) -> Tensor:
    """Launch elu([x, -x]): [..., C] -> [..., 2C], contiguous."""
    x = x.contiguous()
    y = torch.empty((*x.shape[:-1], 2 * x.shape[-1]), dtype=x.dtype, device=x.device)
    if x.numel() > 0:
        rows, grid, constants = _plan(x)
        with on_device(x):
            _forward_kernel[grid](x, y, rows, **constants)
    return y


def concat_elu_backward(grad: Tensor, x: Tensor) -> Tensor:
    """Launch the gradient of x [..., C], recomputed from x, of the output's grad [..., 2C]."""
    grad, x = grad.contiguous(), x.contiguous()
    grad_x = torch.empty_like(x)
    if x.numel() > 0:
        rows, grid, constants = _plan(x)
        with on_device(x):
            _backward_kernel[grid](grad, x, grad_x, rows, **constants)
    return grad_x


def _plan(x: Tensor) -> tuple[int, tuple[int], dict[str, Any]]:
    """Rows in all, the grid, and the kernels' constants."""
    channels = x.shape[-1]
    rows = x.numel() // channels
    tile = max(_TILE, power_of_two(channels))
    rows_of_tile = tile // channels
    constants = {
        "C": channels,
        "ROWS": rows_of_tile,
        "TILE": tile,
        "REAL": real_type(x.dtype),
        "num_warps": _WARPS,
        "enable_fp_fusion": True,
    }
    return rows, (triton.cdiv(rows, rows_of_tile),), constants
