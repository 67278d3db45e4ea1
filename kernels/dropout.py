"""Dropout by Philox4x32-10: the factors that other kernels multiply by, and the kernel on its own.

Four rows of one column share a counter (vflow/ops/dropout.py says how), so a lane draws once for
four elements, and neighbouring lanes write neighbouring elements of each row.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from vflow.kernels.launch import on_device, power_of_two, real_type

_TILE, _WARPS = 1024, 4  # lanes, of four elements each
ROWS = 4
"""Rows that share a counter."""


@triton.jit
def dropout_factors(
    seed, counter, THRESHOLD: tl.constexpr, SCALE: tl.constexpr, REAL: tl.constexpr
):
    """The factors of four rows where the counters are `counter`, int64 of any shape."""
    key = (tl.load(seed + 1) << 32) | tl.load(seed)
    low, high = counter.to(tl.uint32), (counter >> 32).to(tl.uint32)
    zero = tl.zeros_like(low)
    w0, w1, w2, w3 = tl.philox(key, low, high, zero, zero)
    threshold = tl.full((), THRESHOLD, tl.uint32)
    scale, none = tl.full((), SCALE, REAL), tl.full((), 0.0, REAL)
    return (
        tl.where(w0 >= threshold, scale, none),
        tl.where(w1 >= threshold, scale, none),
        tl.where(w2 >= threshold, scale, none),
        tl.where(w3 >= threshold, scale, none),
    )


@triton.jit
def _scale(x, y, factor, live, REAL: tl.constexpr):
    x_i = tl.load(x, mask=live, other=0.0).to(REAL)
    tl.store(y, (x_i * factor).to(y.dtype.element_ty), mask=live)


@triton.jit
def _dropout_kernel(
    x,
    seed,
    y,
    rows,
    C: tl.constexpr,
    FOURS: tl.constexpr,
    TILE: tl.constexpr,
    THRESHOLD: tl.constexpr,
    SCALE: tl.constexpr,
    REAL: tl.constexpr,
):
    first = tl.program_id(0).to(tl.int64) * FOURS
    i = tl.arange(0, TILE)
    four = i // C
    f0, f1, f2, f3 = dropout_factors(seed, first * C + i, THRESHOLD, SCALE, REAL)
    row = (first + four) * 4
    inside = i < FOURS * C
    x += first * (4 * C)
    y += first * (4 * C)
    at = i + four * (3 * C)  # four * 4C + column
    _scale(x + at, y + at, f0, inside & (row < rows), REAL)
    _scale(x + C + at, y + C + at, f1, inside & (row + 1 < rows), REAL)
    _scale(x + 2 * C + at, y + 2 * C + at, f2, inside & (row + 2 < rows), REAL)
    _scale(x + 3 * C + at, y + 3 * C + at, f3, inside & (row + 3 < rows), REAL)


def dropout(x: Tensor, seed: Tensor, dropout: float) -> Tensor:
    """Launch dropout of x [..., C]: like x, contiguous."""
    x, seed = x.contiguous(), seed.contiguous()
    y = torch.empty_like(x)
    if x.numel() > 0:
        channels = x.shape[-1]
        rows = x.numel() // channels
        fours, constants = plan(x, dropout)
        with on_device(x):
            _dropout_kernel[(triton.cdiv(rows, ROWS * fours),)](
                x, seed, y, rows, FOURS=fours, **constants
            )
    return y


def plan(x: Tensor, dropout: float) -> tuple[int, dict[str, Any]]:
    """Fours of rows of x's last dimension that a program takes, and the kernel's constants."""
    channels = x.shape[-1]
    tile = max(_TILE, power_of_two(channels))
    constants = {
        "C": channels,
        "TILE": tile,
        "THRESHOLD": int(dropout * 2**32),
        "SCALE": 1 / (1 - dropout),
        "REAL": real_type(x.dtype),
        "num_warps": _WARPS,
        "enable_fp_fusion": True,
    }
    return tile // channels, constants
