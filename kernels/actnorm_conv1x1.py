"""Activation normalisation and an invertible 1x1 convolution, and the inverse.

Forward is one launch: program 0 factors the weight and writes the log-determinants, all others take
a tile of positions each. The inverse inverts the weight in a launch of its own, whose result all
programs of the next one read.

Products are exact float32 (no tf32) on tiles of 16 channels at a time. Meant for C <= 64; with
more, the small matrix leaves the registers.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from vflow.kernels.launch import as_positions, on_device, power_of_two, real_type, wide_dtype
from vflow.kernels.math import larger
from vflow.kernels.small_matrix import invert, log_abs_det

MIN_SCALE = tl.constexpr(1e-10)
CHUNK = tl.constexpr(16)  # channels of a product; the least that tl.dot takes
BLOCK = tl.constexpr(1024)  # numbers at a time in sums by one program


@triton.jit
def _rows_of_tile(tile, rows, positions, ROWS: tl.constexpr):
    """Image and position of a tile's rows [ROWS], and which of them there are."""
    first = tile.to(tl.int64) * ROWS
    r = tl.arange(0, ROWS)
    q = (first % positions).to(tl.int32) + r
    return first // positions + q // positions, q % positions, first + r < rows


@triton.jit
def min_scale(dtype: tl.constexpr):
    """The least scale. Triton 3.6 rounds a bare constant to float32 beside a float64 tensor."""
    return tl.full([], MIN_SCALE, dtype)


@triton.jit
def _log_determinant(scale, log_det, positions, C: tl.constexpr):
    """sum log scale + positions * log|det W|, in float64."""
    numbers = tl.cast(positions, tl.int64) * C
    total = tl.zeros([BLOCK], tl.float64)
    for first in range(0, numbers, BLOCK):
        i = first + tl.arange(0, BLOCK)
        s = tl.load(scale + i, mask=i < numbers, other=1.0).to(tl.float64)
        s = larger(s, min_scale(tl.float64))
        total += tl.log(s)
    return tl.sum(total, 0) + tl.cast(positions, tl.float64) * log_det


@triton.jit
def _fill(numbers, value, count):
    for first in range(0, count, BLOCK):
        i = first + tl.arange(0, BLOCK)
        filled = tl.zeros([BLOCK], tl.float64) + value
        tl.store(numbers + i, filled.to(numbers.dtype.element_ty), mask=i < count)


@triton.jit
def _forward_kernel(
    x,
    scale,
    bias,
    weight,
    y,
    logdet,
    x_image,
    batch,
    positions,
    X_POSITION: tl.constexpr,
    X_CHANNEL: tl.constexpr,
    C: tl.constexpr,
    CP: tl.constexpr,
    NP: tl.constexpr,
    ROWS: tl.constexpr,
    REAL: tl.constexpr,
):
    program = tl.program_id(0)
    if program == 0:
        _fill(logdet, _log_determinant(scale, log_abs_det(weight, C, CP), positions, C), batch)
    else:
        rows = tl.cast(batch, tl.int64) * positions
        image, position, live = _rows_of_tile(program - 1, rows, positions, ROWS)
        x_rows = image * x_image + position.to(tl.int64) * X_POSITION
        n = tl.arange(0, NP)
        result = tl.zeros([ROWS, NP], REAL)
        for start in range(0, C, CHUNK):
            c = start + tl.arange(0, CHUNK)
            mask = live[:, None] & (c < C)[None, :]
            x_c = tl.load(x + x_rows[:, None] + c[None, :] * X_CHANNEL, mask=mask, other=0.0)
            cell = position[:, None] * C + c[None, :]
            s = tl.load(scale + cell, mask=mask, other=0.0).to(REAL)
            s = larger(s, min_scale(REAL))
            shift = tl.load(bias + cell, mask=mask, other=0.0).to(REAL)
            square = (c < C)[:, None] & (n < C)[None, :]
            w = tl.load(weight + c[:, None] * C + n[None, :], mask=square, other=0.0).to(REAL)
            normed = x_c.to(REAL) * s + shift
            result = tl.dot(normed, w, result, input_precision="ieee", out_dtype=REAL)
        out = (image * positions + position) * C
        mask = live[:, None] & (n < C)[None, :]
        tl.store(y + out[:, None] + n[None, :], result.to(y.dtype.element_ty), mask=mask)


@triton.jit
def _invert_kernel(
    weight, scale, inverse, logdet, batch, positions, C: tl.constexpr, CP: tl.constexpr
):
    """One program: the inverse of the weight, and log-determinants of the inverse map."""
    numbers, log_det, place = invert(weight, C, CP)
    r = tl.arange(0, CP)
    mask = (r < C)[:, None] & (r < C)[None, :]
    tl.store(
        inverse + place[:, None] * C + r[None, :],
        numbers.to(inverse.dtype.element_ty),
        mask=mask,
    )
    _fill(logdet, -_log_determinant(scale, log_det, positions, C), batch)


@triton.jit
def _inverse_kernel(
    y,
    scale,
    bias,
    inverse,
    x,
    y_image,
    batch,
    positions,
    Y_POSITION: tl.constexpr,
    Y_CHANNEL: tl.constexpr,
    C: tl.constexpr,
    NP: tl.constexpr,
    ROWS: tl.constexpr,
    REAL: tl.constexpr,
):
    rows = tl.cast(batch, tl.int64) * positions
    image, position, live = _rows_of_tile(tl.program_id(0), rows, positions, ROWS)
    y_rows = image * y_image + position.to(tl.int64) * Y_POSITION
    n = tl.arange(0, NP)
    result = tl.zeros([ROWS, NP], REAL)
    for start in range(0, C, CHUNK):
        c = start + tl.arange(0, CHUNK)
        mask = live[:, None] & (c < C)[None, :]
        y_c = tl.load(y + y_rows[:, None] + c[None, :] * Y_CHANNEL, mask=mask, other=0.0)
        square = (c < C)[:, None] & (n < C)[None, :]
        w = tl.load(inverse + c[:, None] * C + n[None, :], mask=square, other=0.0)
        result = tl.dot(y_c.to(REAL), w, result, input_precision="ieee", out_dtype=REAL)
    mask = live[:, None] & (n < C)[None, :]
    cell = position[:, None] * C + n[None, :]
    s = larger(tl.load(scale + cell, mask=mask, other=1.0).to(REAL), min_scale(REAL))
    result = (result - tl.load(bias + cell, mask=mask, other=0.0).to(REAL)) / s
    out = (image * positions + position) * C
    tl.store(x + out[:, None] + n[None, :], result.to(x.dtype.element_ty), mask=mask)


def actnorm_conv1x1(
    x: Tensor, scale: Tensor, bias: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor]:
    """Launch (x * max(scale, 1e-10) + bias) @ weight.

    Args:
        x: [B, ..., C], strided as it comes.
        scale: [..., C].
        bias: [..., C].
        weight: [C, C].

    Returns:
        y like x, contiguous, and logdet [B] in nats.
    """
    y, logdet = _outputs(x)
    if x.numel() == 0:
        return y, logdet.zero_()
    scale, bias, weight = scale.contiguous(), bias.contiguous(), weight.contiguous()
    x_p = as_positions(x)
    batch, positions, channels = x_p.shape
    rows = _rows_of(channels)
    with on_device(x):
        _forward_kernel[(1 + triton.cdiv(batch * positions, rows),)](
            x_p,
            scale,
            bias,
            weight,
            y,
            logdet,
            x_p.stride(0),
            batch,
            positions,
            X_POSITION=x_p.stride(1),
            X_CHANNEL=x_p.stride(2),
            C=channels,
            CP=power_of_two(channels),
            NP=padded(channels),
            ROWS=rows,
            REAL=real_type(x.dtype),
            num_warps=warps_for(channels),
            enable_fp_fusion=True,
        )
    return y, logdet


def actnorm_conv1x1_inverse(
    y: Tensor, scale: Tensor, bias: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor]:
    """Launch (y @ weight^-1 - bias) / max(scale, 1e-10); arguments and results as of the above."""
    x, logdet = _outputs(y)
    if y.numel() == 0:
        return x, logdet.zero_()
    scale, bias, weight = scale.contiguous(), bias.contiguous(), weight.contiguous()
    y_p = as_positions(y)
    batch, positions, channels = y_p.shape
    inverse = torch.empty(channels, channels, dtype=wide_dtype(y.dtype), device=y.device)
    rows = _rows_of(channels)
    with on_device(y):
        _invert_kernel[(1,)](
            weight,
            scale,
            inverse,
            logdet,
            batch,
            positions,
            C=channels,
            CP=power_of_two(channels),
            num_warps=warps_for(channels),
            enable_fp_fusion=True,
        )
        _inverse_kernel[(triton.cdiv(batch * positions, rows),)](
            y_p,
            scale,
            bias,
            inverse,
            x,
            y_p.stride(0),
            batch,
            positions,
            Y_POSITION=y_p.stride(1),
            Y_CHANNEL=y_p.stride(2),
            C=channels,
            NP=padded(channels),
            ROWS=rows,
            REAL=real_type(y.dtype),
            num_warps=warps_for(channels),
            enable_fp_fusion=True,
        )
    return x, logdet


def _outputs(x: Tensor) -> tuple[Tensor, Tensor]:
    logdet = torch.empty(x.shape[0], dtype=wide_dtype(x.dtype), device=x.device)
    return torch.empty(x.shape, dtype=x.dtype, device=x.device), logdet


def padded(channels: int) -> int:
    """Channels of a tile: a power of two that tl.dot takes."""
    return power_of_two(max(channels, CHUNK.value))


def _rows_of(channels: int) -> int:
    """Positions a program of the forward map and of its inverse."""
    return max(1024 // padded(channels), 16)


def warps_for(channels: int) -> int:
    """Enough threads to keep a small matrix of this size in registers."""
    return 4 if channels <= 32 else 8
