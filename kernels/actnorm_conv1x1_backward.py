"""The gradient of activation normalisation and an invertible 1x1 convolution.

Three launches: sums a program, the sums of those for the weight, and the end, whose program 0
inverts the weight. All sums are in an order that the sizes decide.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from vflow.kernels.actnorm_conv1x1 import BLOCK, CHUNK, min_scale, padded, warps_for
from vflow.kernels.launch import as_positions, on_device, power_of_two, real_type, wide_dtype
from vflow.kernels.math import larger
from vflow.kernels.reduction import sum_columns
from vflow.kernels.small_matrix import invert

_ROWS = 32
_ENOUGH_PROGRAMS = 256  # for any device, if there are as many images


@triton.jit
def _backward_kernel(
    grad_y,
    x,
    scale,
    bias,
    weight,
    grad_x,
    position_sums,  # [2, chunks, line, C], for scale and bias
    weight_sums,  # [programs, C, C]
    grad_y_image,
    x_image,
    batch,
    positions,
    blocks,
    chunks,
    lines_of_chunk,
    REPEATS: tl.constexpr,
    GRAD_Y_POSITION: tl.constexpr,
    GRAD_Y_CHANNEL: tl.constexpr,
    X_POSITION: tl.constexpr,
    X_CHANNEL: tl.constexpr,
    C: tl.constexpr,
    NP: tl.constexpr,
    ROWS: tl.constexpr,
    REAL: tl.constexpr,
):
    """A block of positions, over the lines of a chunk; a line is REPEATS images, one on another."""
    program = tl.program_id(0)
    chunk, block = program // blocks, program % blocks
    line_positions = positions * REPEATS
    q = block * ROWS + tl.arange(0, ROWS)
    position = q % positions
    n = tl.arange(0, NP)
    there = (q < line_positions)[:, None] & (n < C)[None, :]
    cell = position[:, None] * C + n[None, :]
    s = larger(tl.load(scale + cell, mask=there, other=1.0).to(REAL), min_scale(REAL))
    shift = tl.load(bias + cell, mask=there, other=0.0).to(REAL)
    grad_scale = tl.zeros([ROWS, NP], REAL)
    grad_bias = tl.zeros([ROWS, NP], REAL)
    grad_weight = tl.zeros([NP, NP], REAL)
    for line in range(chunk * lines_of_chunk, (chunk + 1) * lines_of_chunk):
        image = q.to(tl.int64) // positions + line * REPEATS
        live = (q < line_positions) & (image < batch)
        gy_rows = image * grad_y_image + position.to(tl.int64) * GRAD_Y_POSITION
        x_rows = image * x_image + position.to(tl.int64) * X_POSITION
        mask = live[:, None] & (n < C)[None, :]
        grad_normed = tl.zeros([ROWS, NP], REAL)
        for start in range(0, C, CHUNK):
            c = start + tl.arange(0, CHUNK)
            part = live[:, None] & (c < C)[None, :]
            gy_c = tl.load(
                grad_y + gy_rows[:, None] + c[None, :] * GRAD_Y_CHANNEL, mask=part, other=0.0
            )
            square = (c < C)[:, None] & (n < C)[None, :]
            w_t = tl.load(weight + n[None, :] * C + c[:, None], mask=square, other=0.0)
            grad_normed = tl.dot(
                gy_c.to(REAL), w_t.to(REAL), grad_normed, input_precision="ieee", out_dtype=REAL
            )
        x_n = tl.load(x + x_rows[:, None] + n[None, :] * X_CHANNEL, mask=mask, other=0.0).to(REAL)
        gy = tl.load(
            grad_y + gy_rows[:, None] + n[None, :] * GRAD_Y_CHANNEL, mask=mask, other=0.0
        ).to(REAL)
        # Rows that are not there have a gradient of zero, whatever their normed numbers.
        normed = tl.where(mask, x_n * s + shift, 0.0)
        grad_weight = tl.dot(
            tl.trans(normed), gy, grad_weight, input_precision="ieee", out_dtype=REAL
        )
        grad_scale += grad_normed * x_n
        grad_bias += grad_normed
        out = (image * positions + position) * C
        tl.store(
            grad_x + out[:, None] + n[None, :],
            (grad_normed * s).to(grad_x.dtype.element_ty),
            mask=mask,
        )
    size = tl.cast(line_positions, tl.int64) * C
    to = position_sums + chunk * size + q[:, None] * C + n[None, :]
    tl.store(to, grad_scale, mask=there)
    tl.store(to + chunks * size, grad_bias, mask=there)
    to = weight_sums + program.to(tl.int64) * (C * C) + n[:, None] * C + n[None, :]
    tl.store(to, grad_weight, mask=(n < C)[:, None] & (n < C)[None, :])


@triton.jit
def _finish_kernel(
    position_sums,  # [2, terms, positions, C]
    weight_sum,  # [C, C]
    grad_logdet,
    scale,
    weight,
    grad_scale,
    grad_bias,
    grad_weight,
    grad_logdet_stride,
    batch,
    positions,
    terms,
    C: tl.constexpr,
    CP: tl.constexpr,
    TILE: tl.constexpr,
    REAL: tl.constexpr,
):
    gl_b = tl.zeros([BLOCK], tl.float64)
    for first in range(0, batch, BLOCK):
        b = first + tl.arange(0, BLOCK)
        at = grad_logdet + b.to(tl.int64) * grad_logdet_stride
        gl_b += tl.load(at, mask=b < batch, other=0.0).to(tl.float64)
    gl = tl.sum(gl_b, 0)
    program = tl.program_id(0)
    if program == 0:
        inverse, _, place = invert(weight, C, CP)
        r = tl.arange(0, CP)
        at = r[None, :] * C + place[:, None]  # transposed
        mask = (r < C)[:, None] & (r < C)[None, :]
        total = tl.load(weight_sum + at, mask=mask, other=0.0).to(tl.float64)
        total += gl * tl.cast(positions, tl.float64) * inverse
        tl.store(grad_weight + at, total.to(REAL).to(grad_weight.dtype.element_ty), mask=mask)
    else:
        numbers = tl.cast(positions, tl.int64) * C
        i = (program - 1).to(tl.int64) * TILE + tl.arange(0, TILE)
        live = i < numbers
        of_scale, of_bias = tl.zeros([TILE], REAL), tl.zeros([TILE], REAL)
        for term in range(0, terms):
            at = position_sums + term * numbers + i
            of_scale += tl.load(at, mask=live, other=0.0)
            of_bias += tl.load(at + terms * numbers, mask=live, other=0.0)
        s = tl.load(scale + i, mask=live, other=1.0).to(REAL)
        least = min_scale(REAL)
        of_scale += gl.to(REAL) / larger(s, least)
        of_scale = tl.where(s < least, 0.0, of_scale)
        tl.store(grad_scale + i, of_scale.to(grad_scale.dtype.element_ty), mask=live)
        tl.store(grad_bias + i, of_bias.to(grad_bias.dtype.element_ty), mask=live)


def actnorm_conv1x1_backward(
    grad_y: Tensor, grad_logdet: Tensor, x: Tensor, scale: Tensor, bias: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Launch the gradients of the four inputs, contiguous, recomputed from the inputs alone."""
    scale, bias, weight = scale.contiguous(), bias.contiguous(), weight.contiguous()
    if x.numel() == 0:
        return tuple(torch.zeros_like(t) for t in (x, scale, bias, weight))
    grads = [torch.empty(t.shape, dtype=x.dtype, device=x.device) for t in (x, scale, bias, weight)]
    grad_x, grad_scale, grad_bias, grad_weight = grads
    x_p, grad_y_p = as_positions(x), as_positions(grad_y)
    batch, positions, channels = x_p.shape
    # Small images are taken several at a time, as one of as many more positions.
    repeats = min(max(_ROWS // positions, 1), batch)
    blocks, lines = triton.cdiv(repeats * positions, _ROWS), triton.cdiv(batch, repeats)
    lines_of_chunk = triton.cdiv(lines, min(lines, max(_ENOUGH_PROGRAMS // blocks, 1)))
    chunks = triton.cdiv(lines, lines_of_chunk)
    real = {"dtype": wide_dtype(x.dtype), "device": x.device}
    position_sums = torch.empty(2, chunks, repeats * positions, channels, **real)
    weight_sums = torch.empty(chunks * blocks, channels**2, **real)
    tile = min(256, power_of_two(positions * channels))
    with on_device(x):
        _backward_kernel[(chunks * blocks,)](
            grad_y_p,
            x_p,
            scale,
            bias,
            weight,
            grad_x,
            position_sums,
            weight_sums,
            grad_y_p.stride(0),
            x_p.stride(0),
            batch,
            positions,
            blocks,
            chunks,
            lines_of_chunk,
            REPEATS=repeats,
            GRAD_Y_POSITION=grad_y_p.stride(1),
            GRAD_Y_CHANNEL=grad_y_p.stride(2),
            X_POSITION=x_p.stride(1),
            X_CHANNEL=x_p.stride(2),
            C=channels,
            NP=padded(channels),
            ROWS=_ROWS,
            REAL=real_type(x.dtype),
            num_warps=warps_for(channels),
            enable_fp_fusion=True,
        )
        _finish_kernel[(1 + triton.cdiv(positions * channels, tile),)](
            position_sums,
            sum_columns(weight_sums),
            grad_logdet,
            scale,
            weight,
            grad_scale,
            grad_bias,
            grad_weight,
            grad_logdet.stride(0),
            batch,
            positions,
            chunks * repeats,
            C=channels,
            CP=power_of_two(channels),
            TILE=tile,
            REAL=real_type(x.dtype),
            num_warps=warps_for(channels),
            enable_fp_fusion=True,
        )
    return grad_x, grad_scale, grad_bias, grad_weight
