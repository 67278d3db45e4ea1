"""Mixture-of-logistics coupling transform without the squash, as in Flow++ itself.

    y = logit(F) exp(a) + b,     ldj = log F' - log F - log(1 - F) + a

with F as in `mixlogistic`. Nothing keeps F from 0 and 1 here, so F, 1 - F and F' stay in log space
throughout: far from every component y goes on linearly in x.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from vflow.ops.reference.mixlogistic import (
    MIN_LOG_SCALE,
    backward_in_runs,
    runs,
    sum_per_image,
)
from vflow.ops.reference.precision import compute_dtype


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
    log_sigmoid, log_one_minus = F.logsigmoid(z), F.logsigmoid(-z)
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


def forward_elements(x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
    """Transform n elements: x [n], params [2 + 3K, n] -> y [n], log|dy/dx| [n]."""
    a, b = params[0].tanh(), params[1]
    logits, means, log_scales = params[2:].chunk(3)
    log_inv_scale = log_scales.neg().clamp_max_(-MIN_LOG_SCALE)
    z = (x - means) * log_inv_scale.exp()
    m = log_mixture(z, logits.log_softmax(0), log_inv_scale)
    y = (m.log_cdf - m.log_survival) * a.exp() + b
    return y, m.log_density - m.log_cdf - m.log_survival + a


def mixlogistic_unsquashed(x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
    """See `vflow.ops.mixlogistic`, with squash=False."""
    dtype = compute_dtype(x.dtype)
    y = torch.empty(x.numel(), dtype=x.dtype, device=x.device)
    ldj = torch.empty(x.numel(), dtype=dtype, device=x.device)
    for run, x_n, params_n in runs(x, params):
        y[run], ldj[run] = forward_elements(x_n, params_n)
    return y.view(x.shape), sum_per_image(ldj, x.shape[0])


def mixlogistic_unsquashed_backward(
    grad_y: Tensor, grad_logdet: Tensor, x: Tensor, params: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradient of `mixlogistic_unsquashed`; arguments and result as of `mixlogistic_backward`."""
    return backward_in_runs(backward_elements, grad_y, grad_logdet, x, params)


def backward_elements(gy: Tensor, gl: Tensor, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
    """Gradient for n elements: gy, gl, x [n], params [2 + 3K, n] -> grad x [n], grad params."""
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
