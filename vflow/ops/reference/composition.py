"""Every operation as a composition of PyTorch's own functions, nothing written in place.

What `torch.func`, forward mode and second derivatives go through: PyTorch can differentiate, batch
and trace each of these as often as it likes. The other reference functions, whose gradients are
written down and which work in runs that fit the cache, are what ordinary training takes.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from vflow.ops.reference import mixlogistic_inverse as inverses
from vflow.ops.reference.actnorm_conv1x1 import actnorm_conv1x1, actnorm_conv1x1_inverse
from vflow.ops.reference.conv3x3 import convolve
from vflow.ops.reference.dropout import dropout, dropout_factors
from vflow.ops.reference.gated_residual_norm import EPS
from vflow.ops.reference.mixlogistic import MIN_LOG_SCALE, SQUASH_FLOOR, SQUASH_SPAN
from vflow.ops.reference.precision import autocast, compute_dtype

__all__ = [
    "actnorm_conv1x1",
    "actnorm_conv1x1_inverse",
    "concat_elu",
    "concat_elu_dropout",
    "conv3x3",
    "dropout",
    "gated_residual_norm",
    "mixlogistic",
    "mixlogistic_inverse",
    "self_attention",
]


def mixlogistic_inverse(y: Tensor, params: Tensor, squash: bool = True) -> tuple[Tensor, Tensor]:
    """See `vflow.ops.mixlogistic_inverse`."""
    return _Inverse.apply(y, params, squash)


def concat_elu(x: Tensor) -> Tensor:
    """See `vflow.ops.concat_elu`."""
    return _concat_elu(x).to(x.dtype)


def concat_elu_dropout(x: Tensor, seed: Tensor, dropout: float) -> Tensor:
    """See `vflow.ops.concat_elu`."""
    y = _concat_elu(x)
    halves = y.unflatten(-1, (2, x.shape[-1]))
    return (halves * dropout_factors(halves, seed, dropout)).flatten(-2).to(x.dtype)


def gated_residual_norm(x: Tensor, ab: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """See `vflow.ops.gated_residual_norm`."""
    dtype = compute_dtype(x.dtype)
    a, b = ab.to(dtype).chunk(2, dim=-1)
    residual = x.to(dtype) + a * torch.sigmoid(b)
    y = functional.layer_norm(residual, x.shape[-1:], weight.to(dtype), bias.to(dtype), EPS)
    return y.to(x.dtype)


def conv3x3(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """See `vflow.ops.conv3x3`; in half types rounded once, as the kernels do."""
    dtype = compute_dtype(x.dtype)
    with autocast(x.device.type, None):
        return convolve(x.to(dtype), weight.to(dtype), bias.to(dtype)).to(x.dtype)


def self_attention(qkv: Tensor) -> tuple[Tensor, Tensor]:
    """See `vflow.ops.self_attention`; and log_total [B, heads, N]."""
    q, k, v = qkv.to(compute_dtype(qkv.dtype)).permute(2, 0, 3, 1, 4)  # 3 x [B, heads, N, d]
    with autocast(qkv.device.type, None):
        scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
        output = scores.softmax(-1) @ v
    return output.transpose(1, 2).to(qkv.dtype), scores.logsumexp(-1)


def _concat_elu(x: Tensor) -> Tensor:
    wide = x.to(compute_dtype(x.dtype))
    return functional.elu(torch.cat([wide, -wide], dim=-1))


def mixlogistic(x: Tensor, params: Tensor, squash: bool = True) -> tuple[Tensor, Tensor]:
    """See `vflow.ops.mixlogistic`: as `vflow.ops.reference` has it, with the components last."""
    dtype = compute_dtype(x.dtype)
    wide = params.to(dtype)
    a, b = wide[..., 0].tanh(), wide[..., 1]
    logits, means, log_scales = wide[..., 2:].chunk(3, dim=-1)
    log_scales = log_scales.clamp_min(MIN_LOG_SCALE)
    limit = torch.finfo(dtype).max / 8  # an infinite z would give inf - inf below
    z = ((x.to(dtype).unsqueeze(-1) - means) * (-log_scales).exp()).clamp(-limit, limit)
    log_weight = logits.log_softmax(-1)
    log_below, log_above = functional.logsigmoid(z), functional.logsigmoid(-z)
    log_density = (log_weight + log_below + log_above - log_scales).logsumexp(-1)
    if squash:
        weight = logits.softmax(-1)
        cdf, survival = (weight * z.sigmoid()).sum(-1), (weight * (-z).sigmoid()).sum(-1)
        log_u = (SQUASH_FLOOR + SQUASH_SPAN * cdf).log()
        log_v = (SQUASH_FLOOR + SQUASH_SPAN * survival).log()
        log_density = log_density + math.log(SQUASH_SPAN)
    else:
        log_u, log_v = (
            (log_weight + log_below).logsumexp(-1),
            (log_weight + log_above).logsumexp(-1),
        )
    y = (log_u - log_v) * a.exp() + b
    logdet = (log_density - log_u - log_v + a).flatten(1).sum(1, dtype=torch.float64)
    return y.to(x.dtype), logdet.to(dtype)


class _Inverse(torch.autograd.Function):
    """Newton's iteration stops where it has converged, which nobody can batch from outside.

    Elements do not know of each other, so that a batch of batches is a larger batch.
    """

    @staticmethod
    def forward(y: Tensor, params: Tensor, squash: bool) -> tuple[Tensor, Tensor]:
        return inverses.mixlogistic_inverse(y, params, squash)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.mark_non_differentiable(*output)

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], y: Tensor, params: Tensor, squash: bool
    ) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:
        y, params = (
            t.expand(info.batch_size, *t.shape) if d is None else t.movedim(d, 0)
            for t, d in zip((y, params), in_dims, strict=False)
        )
        x, logdet = _Inverse.apply(y.flatten(0, 1), params.flatten(0, 1), squash)
        batches = info.batch_size, y.shape[1]
        return (x.unflatten(0, batches), logdet.unflatten(0, batches)), (0, 0)
