"""Inverse of the mixture-of-logistics coupling transform: bracketed Newton, in plain PyTorch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from vflow.ops.reference.mixlogistic import (
    MIN_LOG_SCALE,
    SQUASH_FLOOR,
    SQUASH_SPAN,
    forward_elements,
    log_mixture,
    runs,
    sum_per_image,
)
from vflow.ops.reference.precision import compute_dtype

Evaluate = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""z, weight, inv_scale [K, n] -> logit F(x) and its slope in x, [n]."""

NEWTON_ITERATIONS = 64
MAX_EXPONENT = {
    torch.float32: 80.0,
    torch.float64: 700.0,
}  # exp() of it, times a log-odds, is finite


def by_cdf(z: Tensor, weight: Tensor, inv_scale: Tensor) -> tuple[Tensor, Tensor]:
    """`Evaluate` where neither F nor 1 - F comes near zero."""
    below, above = torch.sigmoid(z), torch.sigmoid(z.neg_())
    weighted = weight * below
    cdf, survival = weighted.sum(0), (weight * above).sum(0)
    density = weighted.mul_(above).mul_(inv_scale).sum(0)
    return cdf.log() - survival.log(), density / (cdf * survival)


def in_log_space(z: Tensor, weight: Tensor, inv_scale: Tensor) -> tuple[Tensor, Tensor]:
    """`Evaluate` wherever F is."""
    m = log_mixture(z, weight.log(), inv_scale.log())
    slope = (m.log_density - m.log_cdf - m.log_survival).exp_()
    return m.log_cdf - m.log_survival, slope


def mixlogistic_inverse(y: Tensor, params: Tensor, squash: bool = True) -> tuple[Tensor, Tensor]:
    """See `vflow.ops.mixlogistic_inverse`."""
    evaluate = by_cdf if squash else in_log_space
    dtype = compute_dtype(y.dtype)
    limit, largest = torch.finfo(dtype).max / 8, torch.finfo(y.dtype).max
    x = torch.empty(y.numel(), dtype=y.dtype, device=y.device)
    ldj = torch.empty(y.numel(), dtype=dtype, device=y.device)
    for run, y_n, params_n in runs(y, params):
        target = (y_n - params_n[1]).mul_(params_n[0].tanh().neg_().exp_())
        log_odds = target.clamp_(-limit, limit)
        if squash:
            log_odds = _unsquash(log_odds)
        logits, means, log_scales = params_n[2:].chunk(3)
        x_n = mixture_quantile(log_odds, logits, means, log_scales, evaluate)
        x_n.clamp_(-largest, largest)  # float16 ends early
        x[run] = x_n
        ldj[run] = forward_elements(x_n, params_n, squash)[1].neg_()
    return x.view(y.shape), sum_per_image(ldj, y.shape[0])


def mixture_quantile(
    log_odds: Tensor,
    logits: Tensor,
    means: Tensor,
    log_scales: Tensor,
    evaluate: Evaluate = by_cdf,
) -> Tensor:
    """Invert the CDF of mixtures of logistics.

    Newton's method on logit F(x) - log_odds, which is linear in x for one component and in the
    tails, inside a bracket that starts at the least and the greatest of the components' own
    quantiles. A step that leaves the bracket, or that follows one which did not halve the residual,
    is replaced by bisection. What is not settled after 64 steps is bisected by the count of floats
    in the bracket, so that it ends within as many more as the dtype has bits.

    Args:
        log_odds: logit of the CDF values [n].
        logits: Unnormalised log-weights [K, n].
        means: Means [K, n].
        log_scales: Log-scales [K, n].
        evaluate: `by_cdf` or, where F may underflow, `in_log_space`.

    Returns:
        x [n] with F(x) = sigmoid(log_odds), as near as x's dtype can tell.
    """
    eps = torch.finfo(log_odds.dtype).eps
    limit = torch.finfo(log_odds.dtype).max / 8
    log_scales = log_scales.clamp(MIN_LOG_SCALE, MAX_EXPONENT[log_odds.dtype])
    inv_scale = log_scales.neg().exp_()
    weight = torch.softmax(logits, 0)
    quantiles = torch.addcmul(means, log_scales.exp(), log_odds).clamp_(-limit, limit)
    low, high = quantiles.amin(0), quantiles.amax(0)
    x = (weight * quantiles).sum(0).clamp_(low, high)
    answer = x.clone()
    # The elements still at work, by their place in `answer`; the arrays are cut down as they
    # settle.
    place = torch.arange(x.numel(), device=x.device)
    last = torch.full_like(x, torch.inf)
    for iteration in range(NEWTON_ITERATIONS + torch.finfo(x.dtype).bits + 2):
        at_x, slope = evaluate((x - means).mul_(inv_scale), weight, inv_scale)
        residual = at_x - log_odds
        low = torch.where(residual < 0, x, low)
        high = torch.where(residual > 0, x, high)
        if iteration < NEWTON_ITERATIONS:
            newton = x - residual / slope
            # A nan (0 / 0 on a plateau) fails both comparisons and is bisected too.
            good = (newton > low) & (newton < high) & (residual.abs() < 0.5 * last)
            step = torch.where(good, newton, 0.5 * low + 0.5 * high)
        else:
            step = _middle_float(low, high)
        # Both logarithms, and log_odds itself, are good to a few roundings.
        close = residual.abs() <= eps * (8 + 2 * log_odds.abs())
        narrow = high - low <= 2 * eps * torch.maximum(low.abs(), high.abs())
        settled = close | narrow | (step == x)
        answer[place] = x
        last = residual.abs()
        x = step
        active = (~settled).nonzero()[:, 0]
        if active.numel() == 0:
            break
        if active.numel() < 0.75 * settled.numel():
            place, x, last = place[active], x[active], last[active]
            low, high, log_odds = low[active], high[active], log_odds[active]
            weight, means, inv_scale = weight[:, active], means[:, active], inv_scale[:, active]
    return answer


def _middle_float(low: Tensor, high: Tensor) -> Tensor:
    """The float with as many floats between it and `low` as between it and `high`."""
    integer = torch.int64 if low.dtype == torch.float64 else torch.int32
    largest = torch.iinfo(integer).max

    def flip(bits: Tensor) -> Tensor:  # negative floats count backwards; its own inverse
        return torch.where(bits < 0, bits ^ largest, bits)

    a, b = flip(low.view(integer)), flip(high.view(integer))
    return flip((a >> 1) + (b >> 1) + (a & b & 1)).view(low.dtype)


def _unsquash(target: Tensor) -> Tensor:
    """Logit of the CDF value whose squash has the given logit, clipped inside (0, 1)."""
    eps = torch.finfo(target.dtype).eps
    cdf = torch.sigmoid(target).sub_(SQUASH_FLOOR).div_(SQUASH_SPAN).clamp_(eps, 1 - eps)
    survival = torch.sigmoid(-target).sub_(SQUASH_FLOOR).div_(SQUASH_SPAN).clamp_(eps, 1 - eps)
    return cdf.log_().sub_(survival.log_())
