"""The inverse of the mixture-of-logistics coupling transform: bracketed Newton in registers.

Newton's method on logit F(x) - log_odds, which is linear in x for one component and in the tails,
inside a bracket that starts at the least and the greatest of the components' own quantiles. A step
that leaves the bracket, or that follows one which did not halve the residual, is replaced by
bisection. What is not settled after 64 steps is bisected by the count of floats in the bracket, so
that it ends within as many more as the format has bits. A program goes on while any of its elements
is at work, so tiles are small: one warp.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from vflow.kernels.launch import as_positions, lies_in_a_row, on_device, wide_dtype
from vflow.kernels.math import (
    clamp,
    divide,
    exp,
    exp_exact,
    larger,
    log,
    sigmoids,
    smaller,
    tanh,
)
from vflow.kernels.mixlogistic import SQUASH_FLOOR, SQUASH_SPAN, element_offsets, transform
from vflow.kernels.mixture import (
    Tile,
    clamped,
    density_terms,
    largest_over,
    load_components,
    load_head,
    tail_terms,
)
from vflow.kernels.reduction import sum_rows

NEWTON_ITERATIONS = tl.constexpr(64)
_TILE = 128


@triton.jit
def _epsilon(REAL: tl.constexpr):
    return 2.220446049250313e-16 if REAL == tl.float64 else 1.1920928955078125e-07


@triton.jit
def _middle_float(low, high, REAL: tl.constexpr):
    """The float with as many floats between it and `low` as between it and `high`."""
    if REAL == tl.float64:
        a, b = low.to(tl.int64, bitcast=True), high.to(tl.int64, bitcast=True)
        all_but_sign = tl.full(a.shape, 0x7FFFFFFFFFFFFFFF, tl.int64)
    else:
        a, b = low.to(tl.int32, bitcast=True), high.to(tl.int32, bitcast=True)
        all_but_sign = tl.full(a.shape, 0x7FFFFFFF, tl.int32)
    # Negative floats count backwards; this is its own inverse.
    a, b = tl.where(a < 0, a ^ all_but_sign, a), tl.where(b < 0, b ^ all_but_sign, b)
    middle = (a >> 1) + (b >> 1) + (a & b & 1)
    return tl.where(middle < 0, middle ^ all_but_sign, middle).to(REAL, bitcast=True)


@triton.jit
def _log_odds_of(y, raw_a, b, SQUASH: tl.constexpr, REAL: tl.constexpr):
    """Logit of the CDF value that y asks for; with the squash, clipped inside (0, 1)."""
    limit = largest_over(REAL, 8)
    target = clamp((y - b) * exp_exact(-tanh(raw_a)), -limit, limit)
    if SQUASH:
        # What is left of the smaller one without its floor has what error there is, enlarged.
        odds = exp_exact(-tl.abs(target))
        near, far = divide(tl.zeros_like(odds) + 1.0, 1.0 + odds), divide(odds, 1.0 + odds)
        eps = _epsilon(REAL)
        near = clamp((near - SQUASH_FLOOR) / SQUASH_SPAN, eps, 1.0 - eps)
        far = clamp((far - SQUASH_FLOOR) / SQUASH_SPAN, eps, 1.0 - eps)
        log_odds = log(near / far)
        target = tl.where(target < 0, -log_odds, log_odds)
    return target


@triton.jit
def _log_odds_at(
    x, logit, weight, total, mean, log_scale, inv_scale, SQUASH: tl.constexpr, REAL: tl.constexpr
):
    """Logit F(x) and one over its slope [E]."""
    limit = largest_over(REAL, 8)
    z = clamp((x[:, None] - mean) * inv_scale, -limit, limit)
    below, above, near = sigmoids(z)
    if SQUASH:
        weighted = weight * below
        cdf, survival = tl.sum(weighted, 1), tl.sum(weight * above, 1)
        log_odds = log(cdf / survival)
        inv_slope = cdf * survival / (tl.sum(weighted * above * inv_scale, 1) * total)
    else:
        density, shift = density_terms(logit, z, log_scale, near)
        below, below_shift, above, above_shift = tail_terms(logit, z, near)
        cdf, survival = tl.sum(below, 1), tl.sum(above, 1)
        log_odds = log(cdf / survival) + (below_shift - above_shift)
        inv_slope = cdf * survival / (tl.sum(density, 1) * total)
        inv_slope *= exp_exact(below_shift + above_shift - shift)
    return log_odds, inv_slope


@triton.jit
def _quantile(
    log_odds,
    live,
    logit,
    mean,
    log_scale,
    K: tl.constexpr,
    SQUASH: tl.constexpr,
    REAL: tl.constexpr,
):
    """x [E] with F(x) = sigmoid(log_odds), as near as its format can tell."""
    limit, eps = largest_over(REAL, 8), _epsilon(REAL)
    if REAL == tl.float64:
        widest, last_iteration = 700.0, NEWTON_ITERATIONS + 66
    else:
        widest, last_iteration = 80.0, NEWTON_ITERATIONS + 34
    log_scale = clamped(log_scale)
    log_scale = smaller(log_scale, widest)
    inv_scale = exp_exact(-log_scale)
    weight = exp(logit)
    total = tl.sum(weight, 1)
    quantiles = clamp(mean + exp_exact(log_scale) * log_odds[:, None], -limit, limit)
    x = tl.sum(weight * quantiles, 1) / total
    there = (tl.arange(0, logit.shape[1]) < K)[None, :]
    low = tl.min(tl.where(there, quantiles, limit), 1)
    high = tl.max(tl.where(there, quantiles, -limit), 1)
    x = clamp(x, low, high)

    last = tl.full(x.shape, float("inf"), REAL)
    active = (live & (x == x)).to(tl.int32)  # a NaN stays where it is
    iteration = 0
    while (iteration < last_iteration) & (tl.max(active, 0) > 0):
        at_x, inv_slope = _log_odds_at(
            x, logit, weight, total, mean, log_scale, inv_scale, SQUASH, REAL
        )
        residual = at_x - log_odds
        distance = tl.abs(residual)
        low = tl.where(residual < 0, x, low)
        high = tl.where(residual > 0, x, high)
        newton = x - residual * inv_slope
        # A NaN (0 / 0 on a plateau) fails the comparisons and is bisected too.
        good = (newton > low) & (newton < high) & (distance < 0.5 * last)
        step = tl.where(good, newton, 0.5 * low + 0.5 * high)
        if iteration >= NEWTON_ITERATIONS:
            step = _middle_float(low, high, REAL)
        # Both logarithms, and log_odds itself, are good to a few roundings.
        close = distance <= eps * (8.0 + 2.0 * tl.abs(log_odds))
        narrow = high - low <= 2.0 * eps * larger(tl.abs(low), tl.abs(high))
        active = tl.where(close | narrow | (step == x), 0, active)
        x = tl.where(active != 0, step, x)
        last = distance
        iteration += 1
    return x


@triton.jit
def _inverse_kernel(
    y,
    parameters,
    x,
    partials,
    y_image,
    y_position,
    y_channel,
    elements,
    blocks,
    C: tl.constexpr,
    K: tl.constexpr,
    KP: tl.constexpr,
    E: tl.constexpr,
    IN_A_ROW: tl.constexpr,
    SQUASH: tl.constexpr,
    REAL: tl.constexpr,
    LARGEST: tl.constexpr,
):
    program = tl.program_id(0)
    image = (program // blocks).to(tl.int64)
    start = (program % blocks).to(tl.int64) * E
    e = tl.arange(0, E)
    live = start + e < elements
    first = image * elements + start
    parameters += first * (2 + 3 * K)
    offsets = element_offsets(start + e, y_position, y_channel, C, IN_A_ROW)
    y_e = tl.load(y + image * y_image + offsets, mask=live, other=0.0).to(REAL)
    raw_a, b = load_head(parameters, e, live, K, REAL)
    logit, mean, log_scale = load_components(parameters, e, live, K, KP, REAL)
    log_odds = _log_odds_of(y_e, raw_a, b, SQUASH, REAL)
    x_e = _quantile(log_odds, live, logit, mean, log_scale, K, SQUASH, REAL)
    x_e = clamp(x_e, -LARGEST, LARGEST)  # float16 ends early
    _, log_slope = transform(x_e, raw_a, b, logit, mean, log_scale, SQUASH, REAL)
    tl.store(x + first + e, x_e.to(x.dtype.element_ty), mask=live)
    tl.store(partials + program, -tl.sum(tl.where(live, log_slope, 0.0), 0))


def mixlogistic_inverse(y: Tensor, params: Tensor, squash: bool) -> tuple[Tensor, Tensor]:
    """Launch the inverse.

    Args:
        y: [B, ..., C], strided as it comes.
        params: [B, ..., C, 2 + 3K].
        squash: Whether the CDF is squashed.

    Returns:
        x like y, contiguous, and logdet [B] of the inverse map in nats.
    """
    x = torch.empty(y.shape, dtype=y.dtype, device=y.device)
    if y.numel() == 0:
        return x, torch.zeros(y.shape[0], dtype=wide_dtype(y.dtype), device=y.device)
    params, y_p = params.contiguous(), as_positions(y)
    tile = Tile(y_p, params, _TILE)
    partials = torch.empty(y.shape[0], tile.blocks, dtype=wide_dtype(y.dtype), device=y.device)
    with on_device(y):
        _inverse_kernel[tile.grid](
            y_p,
            params,
            x,
            partials,
            *y_p.stride(),
            tile.elements,
            tile.blocks,
            IN_A_ROW=lies_in_a_row(y_p),
            SQUASH=squash,
            LARGEST=torch.finfo(y.dtype).max,
            num_warps=1,
            **tile.constants,
        )
        return x, sum_rows(partials)
