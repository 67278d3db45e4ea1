"""LayerNorm of a residual stream after a gated branch, and its gradient: a row is read once.

A program takes a few rows whole, [ROWS, FP] with FP >= F a power of two. The gradients of weight
and bias are summed over the rows that a program visits and leave as one line a program, to be added
up by a second launch in an order that the sizes alone decide.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from vflow.kernels.launch import on_device, power_of_two, real_type, wide_dtype
from vflow.kernels.math import exp, reciprocal_sqrt
from vflow.kernels.reduction import sum_columns

EPS = tl.constexpr(1e-5)
_TILE = 1024
_BACKWARD_PROGRAMS = 1024


@triton.jit
def _sigmoid(x):
    """sigmoid(x), each value accurate to a few roundings of its own size."""
    odds = exp(-tl.abs(x))
    return tl.where(x < 0, odds, 1.0) / (1.0 + odds)


@triton.jit
def _normalise(residual, there, F: tl.constexpr):
    """Normalised rows [ROWS, FP] and one over their deviations [ROWS].

    The mean is taken twice: the second time of the differences from the first, whose own rounding
    would otherwise be all there is of a row of nearly equal numbers.
    """
    mean = tl.sum(residual, 1) / F
    difference = tl.where(there, residual - mean[:, None], 0.0)
    rest = tl.sum(difference, 1) / F
    difference = tl.where(there, difference - rest[:, None], 0.0)
    variance = tl.sum(difference * difference, 1) / F
    # An overflown one would make its row all zeros, as if nothing had happened.
    finite = variance < float("inf")
    inv_deviation = tl.where(finite, reciprocal_sqrt(variance + EPS), float("nan"))
    return difference * inv_deviation[:, None], inv_deviation


@triton.jit
def _forward_kernel(
    x,
    ab,
    weight,
    bias,
    y,
    rows,
    F: tl.constexpr,
    FP: tl.constexpr,
    ROWS: tl.constexpr,
    REAL: tl.constexpr,
):
    first = tl.program_id(0).to(tl.int64) * ROWS
    r, f = tl.arange(0, ROWS), tl.arange(0, FP)
    there = (f < F)[None, :]
    live = (first + r < rows)[:, None] & there
    cell = r[:, None] * F + f[None, :]
    pair = r[:, None] * (2 * F) + f[None, :]
    ab += first * (2 * F)
    w = tl.load(weight + f, mask=f < F, other=0.0).to(REAL)
    shift = tl.load(bias + f, mask=f < F, other=0.0).to(REAL)
    x_r = tl.load(x + first * F + cell, mask=live, other=0.0).to(REAL)
    a = tl.load(ab + pair, mask=live, other=0.0).to(REAL)
    b = tl.load(ab + F + pair, mask=live, other=0.0).to(REAL)
    normed, _ = _normalise(x_r + a * _sigmoid(b), there, F)
    result = normed * w[None, :] + shift[None, :]
    tl.store(y + first * F + cell, result.to(y.dtype.element_ty), mask=live)


@triton.jit
def _backward_kernel(
    grad,
    x,
    ab,
    weight,
    grad_x,
    grad_ab,
    partials,
    rows,
    programs,
    F: tl.constexpr,
    FP: tl.constexpr,
    ROWS: tl.constexpr,
    REAL: tl.constexpr,
):
    program = tl.program_id(0)
    r, f = tl.arange(0, ROWS), tl.arange(0, FP)
    there = (f < F)[None, :]
    cell = r[:, None] * F + f[None, :]
    pair = r[:, None] * (2 * F) + f[None, :]
    w = tl.load(weight + f, mask=f < F, other=0.0).to(REAL)
    grad_weight = tl.zeros([ROWS, FP], REAL)
    grad_bias = tl.zeros([ROWS, FP], REAL)
    first = program.to(tl.int64) * ROWS
    while first < rows:
        live = (first + r < rows)[:, None] & there
        g = tl.load(grad + first * F + cell, mask=live, other=0.0).to(REAL)
        x_r = tl.load(x + first * F + cell, mask=live, other=0.0).to(REAL)
        a = tl.load(ab + first * (2 * F) + pair, mask=live, other=0.0).to(REAL)
        b = tl.load(ab + first * (2 * F) + F + pair, mask=live, other=0.0).to(REAL)
        gate = _sigmoid(b)
        normed, inv_deviation = _normalise(x_r + a * gate, there, F)
        grad_weight += g * normed
        grad_bias += g
        scaled = g * w[None, :]
        mean = tl.sum(scaled, 1) / F
        along = tl.sum(scaled * normed, 1) / F
        gradient = (scaled - mean[:, None] - normed * along[:, None]) * inv_deviation[:, None]
        tl.store(grad_x + first * F + cell, gradient.to(grad_x.dtype.element_ty), mask=live)
        grad_a = gradient * gate
        grad_b = grad_a * a * _sigmoid(-b)
        stored: tl.constexpr = grad_ab.dtype.element_ty
        tl.store(grad_ab + first * (2 * F) + pair, grad_a.to(stored), mask=live)
        tl.store(grad_ab + first * (2 * F) + F + pair, grad_b.to(stored), mask=live)
        first += tl.cast(programs, tl.int64) * ROWS
    partials += program.to(tl.int64) * (2 * F)
    tl.store(partials + f, tl.sum(grad_weight, 0), mask=f < F)
    tl.store(partials + F + f, tl.sum(grad_bias, 0), mask=f < F)


def gated_residual_norm(x: Tensor, ab: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Launch LayerNorm(x + a * sigmoid(b)), [a, b] = ab.

    Args:
        x: [..., F].
        ab: [..., 2F]; it and the two below in any dtype, computed in that of x's arithmetic.
        weight: [F].
        bias: [F].

    Returns:
        [..., F] in x's dtype, contiguous.
    """
    x, ab, weight, bias = (t.contiguous() for t in (x, ab, weight, bias))
    y = torch.empty_like(x)
    if x.numel() > 0:
        rows, blocks, constants = _plan(x)
        with on_device(x):
            _forward_kernel[(blocks,)](x, ab, weight, bias, y, rows, **constants)
    return y


def gated_residual_norm_backward(
    grad: Tensor, x: Tensor, ab: Tensor, weight: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Launch the gradients of the four inputs, contiguous, recomputed from the inputs alone."""
    grad, x, ab, weight = (t.contiguous() for t in (grad, x, ab, weight))
    grad_x, grad_ab = torch.empty_like(x), torch.empty_like(ab)
    features = x.shape[-1]
    if x.numel() == 0:
        return grad_x, grad_ab, torch.zeros_like(weight), torch.zeros_like(bias)
    rows, blocks, constants = _plan(x)
    programs = min(blocks, _BACKWARD_PROGRAMS)
    partials = torch.empty(programs, 2 * features, dtype=wide_dtype(x.dtype), device=x.device)
    with on_device(x):
        _backward_kernel[(programs,)](
            grad, x, ab, weight, grad_x, grad_ab, partials, rows, programs, **constants
        )
        sums = sum_columns(partials).view(2, features)
    return grad_x, grad_ab, sums[0].to(weight.dtype), sums[1].to(bias.dtype)


def _plan(x: Tensor) -> tuple[int, int, dict[str, Any]]:
    """Rows in all, blocks of them, and the kernels' constants."""
    features = x.shape[-1]
    rows, padded = x.numel() // features, power_of_two(features)
    rows_of_tile = max(_TILE // padded, 1)
    constants = {
        "F": features,
        "FP": padded,
        "ROWS": rows_of_tile,
        "REAL": real_type(x.dtype),
        "num_warps": min(max(rows_of_tile * padded // 256, 1), 32),
        "enable_fp_fusion": True,
    }
    return rows, triton.cdiv(rows, rows_of_tile), constants
