"""Mixture-of-logistics coupling transform: forward and its analytic gradient, in plain PyTorch.

Per element, with K logistics of weights w = softmax(logits), means mu and log-scales s >= -7,

    F = sum_k w_k sigmoid(z_k),  z_k = (x - mu_k) exp(-s_k),  u = 0.05 + 0.9 F
    y = logit(u) exp(a) + b,     ldj = log F' + log 0.9 - log u - log(1 - u) + a

Without the squash, as in Flow++ itself, u is F. Nothing keeps F from 0 and 1 then, so F, 1 - F and
F' stay in log space throughout: far from every component y goes on linearly in x.

Tensors are worked on component-major, [K, n], a cache-sized run of n elements at a time: K is
too short a row to vectorise over, and temporaries that leave the cache cost more than the
mathematics.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from vflow.ops.reference.precision import compute_dtype

SQUASH_FLOOR = 0.05
SQUASH_SPAN = 0.9
MIN_LOG_SCALE = -7.0
CACHED_VALUES = 1 << 18  # of 2^14 to 2^19 and no limit, the fastest forward and backward


class Mixture(NamedTuple):
    """What a run of n elements needs of its mixtures; K-wide tensors are component-major."""

    weight: Tensor  # [K, n], sums to 1
    inv_scale: Tensor  # [K, n]
    z: Tensor  # [K, n]
    below: Tensor  # [K, n] sigmoid(z)
    above: Tensor  # [K, n] sigmoid(-z), so that 1 - sigmoid(z) keeps its accuracy
    density: (
        Tensor  # [K, n] each component's share of the density, up to a factor common to the element
    )
    cdf: Tensor  # [n]
    survival: Tensor  # [n]
    log_density: Tensor  # [n]


def mixture(x: Tensor, logits: Tensor, means: Tensor, log_scales: Tensor) -> Mixture:
    """Evaluate mixtures of logistics.

    Args:
        x: Points [n].
        logits: Unnormalised log-weights [K, n].
        means: Means [K, n].
        log_scales: Log-scales [K, n], clamped here at -7 from below.
    """
    log_inv_scale = log_scales.neg().clamp_max_(-MIN_LOG_SCALE)
    inv_scale = log_inv_scale.exp()
    z = (x - means).mul_(inv_scale)
    below, above = torch.sigmoid(z), torch.sigmoid(-z)
    log_weight = torch.log_softmax(logits, 0)
    weight = torch.softmax(logits, 0)  # more accurate than log_weight.exp() for large logits
    # log pdf_k = -|z| - s - 2 log(1 + exp(-|z|)): only the last, bounded term leaves log space, so
    # the density stays finite however far x is from every component.
    log_peak = log_weight.sub_(z.abs()).add_(log_inv_scale)
    peak = log_peak.amax(0)
    density = log_peak.sub_(peak).exp_().mul_(torch.maximum(below, above).square_())
    product = log_inv_scale  # a buffer to spare
    cdf = torch.mul(weight, below, out=product).sum(0)
    survival = torch.mul(weight, above, out=product).sum(0)
    log_density = density.sum(0).log_().add_(peak)
    return Mixture(weight, inv_scale, z, below, above, density, cdf, survival, log_density)


class LogMixture(NamedTuple):
    """Mixtures at n points; K-wide tensors are component-major [K, n]."""

    log_below: Tensor  # [K, n] log of each component's part of F
    log_above: Tensor  # [K, n] of 1 - F
    log_peak: Tensor  # [K, n] of F'
    log_cdf: Tensor  # [n]
    log_survival: Tensor  # [n]
    log_density: Tensor  # [n]


def log_mixture(z: Tensor, log_weight: Tensor, log_inv_scale: Tensor) -> LogMixture:
    """Evaluate mixtures of logistics in log space, all arguments [K, n]."""
    limit = torch.finfo(z.dtype).max / 8  # an infinite z would give inf - inf below
    z = z.clamp(-limit, limit)
    log_sigmoid, log_one_minus = functional.logsigmoid(z), functional.logsigmoid(-z)
    log_below, log_above = log_weight + log_sigmoid, log_weight + log_one_minus
    log_peak = log_below + log_one_minus + log_inv_scale
    return LogMixture(
        log_below,
        log_above,
        log_peak,
        log_below.logsumexp(0),
        log_above.logsumexp(0),
        log_peak.logsumexp(0),
    )


def forward_elements(x: Tensor, params: Tensor, squash: bool) -> tuple[Tensor, Tensor]:
    """Transform n elements: x [n], params [2 + 3K, n] -> y [n], log|dy/dx| [n]."""
    if not squash:
        return _forward_in_log_space(x, params)
    m = mixture(x, *params[2:].chunk(3))
    return _squash(m, params[0].tanh(), params[1])


def _forward_in_log_space(x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
    """`forward_elements` without the squash."""
    a, b = params[0].tanh(), params[1]
    logits, means, log_scales = params[2:].chunk(3)
    log_inv_scale = log_scales.neg().clamp_max_(-MIN_LOG_SCALE)
    z = (x - means) * log_inv_scale.exp()
    m = log_mixture(z, logits.log_softmax(0), log_inv_scale)
    y = (m.log_cdf - m.log_survival) * a.exp() + b
    return y, m.log_density - m.log_cdf - m.log_survival + a


def mixlogistic(x: Tensor, params: Tensor, squash: bool = True) -> tuple[Tensor, Tensor]:
    """See `vflow.ops.mixlogistic`."""
    dtype = compute_dtype(x.dtype)
    y = torch.empty(x.numel(), dtype=x.dtype, device=x.device)
    ldj = torch.empty(x.numel(), dtype=dtype, device=x.device)
    for run, x_n, params_n in runs(x, params):
        y[run], ldj[run] = forward_elements(x_n, params_n, squash)
    return y.view(x.shape), sum_per_image(ldj, x.shape[0])


def mixlogistic_backward(
    grad_y: Tensor, grad_logdet: Tensor, x: Tensor, params: Tensor, squash: bool = True
) -> tuple[Tensor, Tensor]:
    """Gradient of `mixlogistic`, recomputed from its inputs alone.

    Args:
        grad_y: Gradient of y, like x.
        grad_logdet: Gradient of logdet [B].
        x: Input [B, ..., C].
        params: Parameters [B, ..., C, 2 + 3K].
        squash: As `mixlogistic` has it.

    Returns:
        The gradients of x and params, contiguous.
    """
    elements = backward_elements if squash else _backward_in_log_space
    dtype = compute_dtype(x.dtype)
    grad_x = torch.empty(x.numel(), dtype=x.dtype, device=x.device)
    grad_params = torch.empty(x.numel(), params.shape[-1], dtype=params.dtype, device=x.device)
    elements_per_image = x[0].numel() if x.shape[0] else 0
    gy = grad_y.reshape(-1)
    gl = grad_logdet[:, None].expand(-1, elements_per_image).reshape(-1)
    for run, x_n, params_n in runs(x, params):
        grad_x[run], grad_params_n = elements(gy[run].to(dtype), gl[run].to(dtype), x_n, params_n)
        grad_params[run] = grad_params_n.t()
    return grad_x.view(x.shape), grad_params.view(params.shape)


def backward_elements(gy: Tensor, gl: Tensor, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
    """Gradient for n elements: gy, gl, x [n], params [2 + 3K, n] -> grad x [n], grad params."""
    a = params[0].tanh()
    logits, means, log_scales = params[2:].chunk(3)
    m = mixture(x, logits, means, log_scales)
    u = SQUASH_FLOOR + SQUASH_SPAN * m.cdf
    v = SQUASH_FLOOR + SQUASH_SPAN * m.survival
    grad = torch.empty_like(params)
    grad_logits, grad_means, grad_log_scales = grad[2:].chunk(3)

    gy_exp_a = gy * a.exp()
    grad[0] = (gy_exp_a * (u.log() - v.log()) + gl) * (1 - a * a)
    grad[1] = gy
    # d/dF of logit(u) is span / (u v); of -log u - log v it is span (u - v) / (u v), as u + v = 1.
    gF = (gy_exp_a + gl * (u - v)) * SQUASH_SPAN / (u * v)

    share = m.density.mul_(gl / m.density.sum(0))  # gl times each component's responsibility
    gF_weight = gF * m.weight
    torch.sub(m.below, m.cdf, out=grad_logits).mul_(gF_weight)
    grad_logits.add_(share).addcmul_(m.weight, gl, value=-1)
    gz = gF_weight.mul_(m.below).mul_(m.above)
    gz.addcmul_(share, m.above - m.below)
    torch.mul(gz, m.z, out=grad_log_scales).add_(share).neg_()
    grad_log_scales.masked_fill_(log_scales < MIN_LOG_SCALE, 0)
    torch.mul(gz, m.inv_scale, out=grad_means).neg_()
    return grad_means.sum(0).neg_(), grad


def _backward_in_log_space(
    gy: Tensor, gl: Tensor, x: Tensor, params: Tensor
) -> tuple[Tensor, Tensor]:
    """`backward_elements` without the squash."""
    a = params[0].tanh()
    logits, means, log_scales = params[2:].chunk(3)
    log_inv_scale = log_scales.neg().clamp_max_(-MIN_LOG_SCALE)
    inv_scale = log_inv_scale.exp()
    z = (x - means) * inv_scale
    log_weight = logits.log_softmax(0)
    m = log_mixture(z, log_weight, log_inv_scale)
    grad = torch.empty_like(params)
    grad_logits, grad_means, grad_log_scales = grad[2:].chunk(3)

    gy_exp_a = gy * a.exp()
    grad[0] = (gy_exp_a * (m.log_cdf - m.log_survival) + gl) * (1 - a * a)
    grad[1] = gy
    # Each component's share of F, 1 - F and F', times the gradient of that one's logarithm.
    cdf_share = (m.log_below - m.log_cdf).exp_().mul_(gy_exp_a - gl)
    survival_share = (m.log_above - m.log_survival).exp_().mul_(-gy_exp_a - gl)
    share = (m.log_peak - m.log_density).exp_().mul_(gl)
    below, above = torch.sigmoid(z), torch.sigmoid(-z)

    torch.add(cdf_share, survival_share, out=grad_logits).add_(share)
    grad_logits.sub_(log_weight.exp_().mul_(-gl))  # the three gradients above sum to -gl
    gz = (cdf_share * above).sub_(survival_share * below).addcmul_(share, above - below)
    torch.mul(gz, z, out=grad_log_scales).add_(share).neg_()
    grad_log_scales.masked_fill_(log_scales < MIN_LOG_SCALE, 0)
    torch.mul(gz, inv_scale, out=grad_means).neg_()
    return grad_means.sum(0).neg_(), grad


def runs(x: Tensor, params: Tensor) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Cut the elements into runs.

    Yields:
        The run's slice of the flattened elements, its x [n] and its params [2 + 3K, n], both in the
        dtype of the arithmetic.
    """
    dtype = compute_dtype(x.dtype)
    x, params = x.reshape(-1), params.reshape(-1, params.shape[-1])
    count, width = params.shape
    length = max(CACHED_VALUES // width, 256) if x.device.type == "cpu" else max(count, 1)
    for start in range(0, count, length):
        run = slice(start, min(start + length, count))
        yield run, x[run].to(dtype), params[run].t().to(dtype).contiguous()


def sum_per_image(ldj: Tensor, batch: int) -> Tensor:
    """Sum log-derivatives [B * n] over each image, in float64, and give them their dtype back."""
    return ldj.view(batch, -1 if batch else 0).sum(1, dtype=torch.float64).to(ldj.dtype)


def _squash(m: Mixture, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    log_u = m.cdf.mul_(SQUASH_SPAN).add_(SQUASH_FLOOR).log_()
    log_v = m.survival.mul_(SQUASH_SPAN).add_(SQUASH_FLOOR).log_()
    y = (log_u - log_v).mul_(a.exp()).add_(b)
    ldj = m.log_density.add_(math.log(SQUASH_SPAN)).sub_(log_u).sub_(log_v).add_(a)
    return y, ldj
