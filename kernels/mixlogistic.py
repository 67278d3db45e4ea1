"""The mixture-of-logistics coupling transform and its gradient.

A program takes a tile of neighbouring elements of one image: their parameters are read once, all
else stays in registers, and y (or the gradients) is written once. The log-determinant leaves as one
number a program and is summed over each image by a second, small launch. Mathematics as in
`vflow/ops/reference/mixlogistic.py`.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from vflow.kernels.launch import (
    as_positions,
    lies_in_a_row,
    on_device,
    wide_dtype,
)
from vflow.kernels.math import exp, exp_exact, log, sigmoids, tanh
from vflow.kernels.mixture import (
    MIN_LOG_SCALE,
    Tile,
    clamped,
    component_mask,
    component_offsets,
    density_terms,
    load_components,
    load_head,
    standardise,
    tail_terms,
)
from vflow.kernels.reduction import sum_rows

SQUASH_FLOOR = tl.constexpr(0.05)
SQUASH_SPAN = tl.constexpr(0.9)
_FORWARD_TILE, _FORWARD_WARPS = 1024, 4
_BACKWARD_TILE, _BACKWARD_WARPS = 1024, 4


@triton.jit
def element_offsets(i, position_stride, channel_stride, C: tl.constexpr, IN_A_ROW: tl.constexpr):
    """Offsets within an image [positions, C] of its elements i."""
    if IN_A_ROW:
        offsets = i
    else:
        narrow = i.to(tl.int32)
        position = (narrow // C).to(tl.int64)
        offsets = position * position_stride + (narrow % C).to(tl.int64) * channel_stride
    return offsets


@triton.jit
def squashed(cdf, survival):
    """u, v [E] and what they are multiples of, from sums with unnormalised weights."""
    total = cdf + survival
    u = SQUASH_FLOOR * total + SQUASH_SPAN * cdf
    v = SQUASH_FLOOR * total + SQUASH_SPAN * survival
    return u, v, total


@triton.jit
def transform(x, raw_a, b, logit, mean, log_scale, SQUASH: tl.constexpr, REAL: tl.constexpr):
    """y and log|dy/dx| [E] of elements x [E] with components [E, KP]."""
    log_scale = clamped(log_scale)
    z = standardise(x, mean, exp_exact(-log_scale), REAL)
    below, above, near = sigmoids(z)
    density, shift = density_terms(logit, z, log_scale, near)
    a = tanh(raw_a)
    if SQUASH:
        weight = exp(logit)
        u, v, total = squashed(tl.sum(weight * below, 1), tl.sum(weight * above, 1))
        log_odds = log(u / v)
        slope = tl.sum(density, 1) * SQUASH_SPAN * total / (u * v)
    else:
        total = tl.sum(exp(logit), 1)
        below, below_shift, above, above_shift = tail_terms(logit, z, near)
        u, v = tl.sum(below, 1), tl.sum(above, 1)
        log_odds = log(u / v) + (below_shift - above_shift)
        slope = tl.sum(density, 1) * total / (u * v)
        shift = shift - below_shift - above_shift
    return log_odds * exp(a) + b, log(slope) + shift + a


@triton.jit
def _forward_kernel(
    x,
    parameters,
    y,
    partials,
    x_image,
    x_position,
    x_channel,
    elements,
    blocks,
    C: tl.constexpr,
    K: tl.constexpr,
    KP: tl.constexpr,
    E: tl.constexpr,
    IN_A_ROW: tl.constexpr,
    SQUASH: tl.constexpr,
    REAL: tl.constexpr,
):
    program = tl.program_id(0)
    image = (program // blocks).to(tl.int64)
    start = (program % blocks).to(tl.int64) * E
    e = tl.arange(0, E)
    live = start + e < elements
    first = image * elements + start
    parameters += first * (2 + 3 * K)
    offsets = element_offsets(start + e, x_position, x_channel, C, IN_A_ROW)
    x_e = tl.load(x + image * x_image + offsets, mask=live, other=0.0).to(REAL)
    raw_a, b = load_head(parameters, e, live, K, REAL)
    logit, mean, log_scale = load_components(parameters, e, live, K, KP, REAL)
    y_e, log_slope = transform(x_e, raw_a, b, logit, mean, log_scale, SQUASH, REAL)
    tl.store(y + first + e, y_e.to(y.dtype.element_ty), mask=live)
    tl.store(partials + program, tl.sum(tl.where(live, log_slope, 0.0), 0))


@triton.jit
def _backward_kernel(
    grad_y,
    grad_logdet,
    x,
    parameters,
    grad_x,
    grad_params,
    grad_y_image,
    grad_y_position,
    grad_y_channel,
    grad_logdet_stride,
    x_image,
    x_position,
    x_channel,
    elements,
    blocks,
    C: tl.constexpr,
    K: tl.constexpr,
    KP: tl.constexpr,
    E: tl.constexpr,
    GRAD_Y_IN_A_ROW: tl.constexpr,
    X_IN_A_ROW: tl.constexpr,
    SQUASH: tl.constexpr,
    REAL: tl.constexpr,
):
    program = tl.program_id(0)
    image = (program // blocks).to(tl.int64)
    start = (program % blocks).to(tl.int64) * E
    e = tl.arange(0, E)
    live = start + e < elements
    first = image * elements + start
    parameters += first * (2 + 3 * K)
    grad_params += first * (2 + 3 * K)
    offsets = element_offsets(start + e, x_position, x_channel, C, X_IN_A_ROW)
    x_e = tl.load(x + image * x_image + offsets, mask=live, other=0.0).to(REAL)
    offsets = element_offsets(start + e, grad_y_position, grad_y_channel, C, GRAD_Y_IN_A_ROW)
    gy = tl.load(grad_y + image * grad_y_image + offsets, mask=live, other=0.0).to(REAL)
    gl = tl.load(grad_logdet + image * grad_logdet_stride).to(REAL)
    raw_a, _ = load_head(parameters, e, live, K, REAL)
    logit, mean, log_scale = load_components(parameters, e, live, K, KP, REAL)

    acting = clamped(log_scale)
    inv_scale = exp_exact(-acting)
    z = standardise(x_e, mean, inv_scale, REAL)
    below, above, near = sigmoids(z)
    weight = exp(logit)
    density, _ = density_terms(logit, z, acting, near)
    share = density * (gl / tl.sum(density, 1))[:, None]  # gl times each one's responsibility
    grad_z = share * (above - below)
    a = tanh(raw_a)
    gy_exp_a = gy * exp(a)
    if SQUASH:
        cdf = tl.sum(weight * below, 1)
        u, v, total = squashed(cdf, tl.sum(weight * above, 1))
        inv_total = 1.0 / total
        weight = weight * inv_total[:, None]
        cdf = cdf * inv_total
        log_odds = log(u / v)
        # d/dF of logit(u) is span / (u v); of -log u - log v it is span (u - v) / (u v), as
        # u + v = 1.
        of_cdf = (gy_exp_a * total + gl * (u - v)) * SQUASH_SPAN * total / (u * v)
        of_weight = of_cdf[:, None] * weight
        grad_logit = of_weight * (below - cdf[:, None]) + (share - weight * gl)
        grad_z += of_weight * (below * above)
    else:
        weight = weight * (1.0 / tl.sum(weight, 1))[:, None]
        below_term, below_shift, above_term, above_shift = tail_terms(logit, z, near)
        u, v = tl.sum(below_term, 1), tl.sum(above_term, 1)
        log_odds = log(u / v) + (below_shift - above_shift)
        # Each component's share of F and 1 - F, times the gradient of that one's logarithm.
        below_share = below_term * ((gy_exp_a - gl) / u)[:, None]
        above_share = above_term * ((-gy_exp_a - gl) / v)[:, None]
        grad_logit = below_share + above_share + (share + weight * gl)
        grad_z += below_share * above - above_share * below
    slope = grad_z * inv_scale
    grad_log_scale = tl.where(log_scale < MIN_LOG_SCALE, 0.0, -(grad_z * z + share))
    grad_raw_a = (gy_exp_a * log_odds + gl) * (1.0 - a * a)

    stored: tl.constexpr = grad_params.dtype.element_ty
    tl.store(grad_x + first + e, tl.sum(slope, 1).to(grad_x.dtype.element_ty), mask=live)
    row = grad_params + e * (2 + 3 * K)
    tl.store(row, grad_raw_a.to(stored), mask=live)
    tl.store(row + 1, gy.to(stored), mask=live)
    offsets, mask = component_offsets(e, K, KP), component_mask(live, K, KP)
    tl.store(grad_params + offsets, grad_logit.to(stored), mask=mask)
    tl.store(grad_params + K + offsets, (-slope).to(stored), mask=mask)
    tl.store(grad_params + 2 * K + offsets, grad_log_scale.to(stored), mask=mask)


def mixlogistic(x: Tensor, params: Tensor, squash: bool) -> tuple[Tensor, Tensor]:
    """Launch the transform.

    Args:
        x: [B, ..., C], strided as it comes.
        params: [B, ..., C, 2 + 3K].
        squash: Whether the CDF is squashed.

    Returns:
        y like x, contiguous, and logdet [B] in nats.
    """
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    if x.numel() == 0:
        return y, torch.zeros(x.shape[0], dtype=wide_dtype(x.dtype), device=x.device)
    params, x_p = params.contiguous(), as_positions(x)
    tile = Tile(x_p, params, _FORWARD_TILE)
    partials = torch.empty(x.shape[0], tile.blocks, dtype=wide_dtype(x.dtype), device=x.device)
    with on_device(x):
        _forward_kernel[tile.grid](
            x_p,
            params,
            y,
            partials,
            *x_p.stride(),
            tile.elements,
            tile.blocks,
            IN_A_ROW=lies_in_a_row(x_p),
            SQUASH=squash,
            num_warps=tile.warps(_FORWARD_WARPS),
            **tile.constants,
        )
        return y, sum_rows(partials)


def mixlogistic_backward(
    grad_y: Tensor, grad_logdet: Tensor, x: Tensor, params: Tensor, squash: bool
) -> tuple[Tensor, Tensor]:
    """Launch the gradient, recomputed from the inputs alone.

    Args:
        grad_y: Gradient of y, like x, strided as it comes.
        grad_logdet: Gradient of logdet [B].
        x: [B, ..., C].
        params: [B, ..., C, 2 + 3K].
        squash: Whether the CDF is squashed.

    Returns:
        The gradients of x and params, contiguous.
    """
    grad_x = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    grad_params = torch.empty(params.shape, dtype=params.dtype, device=x.device)
    if x.numel() == 0:
        return grad_x, grad_params
    params, x_p, grad_y_p = params.contiguous(), as_positions(x), as_positions(grad_y)
    tile = Tile(x_p, params, _BACKWARD_TILE)
    with on_device(x):
        _backward_kernel[tile.grid](
            grad_y_p,
            grad_logdet,
            x_p,
            params,
            grad_x,
            grad_params,
            *grad_y_p.stride(),
            grad_logdet.stride(0),
            *x_p.stride(),
            tile.elements,
            tile.blocks,
            GRAD_Y_IN_A_ROW=lies_in_a_row(grad_y_p),
            X_IN_A_ROW=lies_in_a_row(x_p),
            SQUASH=squash,
            num_warps=tile.warps(_BACKWARD_WARPS),
            **tile.constants,
        )
    return grad_x, grad_params
