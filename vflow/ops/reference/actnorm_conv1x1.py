"""Activation normalisation followed by an invertible 1x1 convolution, in plain PyTorch."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vflow.ops.reference.precision import autocast, compute_dtype

MIN_SCALE = 1e-10


def actnorm_conv1x1(
    x: Tensor, scale: Tensor, bias: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor]:
    """See `vflow.ops.actnorm_conv1x1`."""
    dtype = compute_dtype(x.dtype)
    normed = torch.addcmul(bias.to(dtype), x.to(dtype), floored(scale, dtype))
    y = _matmul(normed, weight.to(dtype))
    return y.to(x.dtype), _logdet(scale, weight, dtype).expand(x.shape[0]).contiguous()


def actnorm_conv1x1_inverse(
    y: Tensor, scale: Tensor, bias: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor]:
    """See `vflow.ops.actnorm_conv1x1_inverse`."""
    dtype = compute_dtype(y.dtype)
    # One C x C inverse in float64 is nothing beside the product, and saves its accuracy.
    inverse = torch.linalg.inv_ex(weight.to(torch.float64)).inverse.to(dtype)
    x = (_matmul(y.to(dtype), inverse) - bias.to(dtype)) / floored(scale, dtype)
    return x.to(y.dtype), -_logdet(scale, weight, dtype).expand(y.shape[0]).contiguous()


def actnorm_conv1x1_backward(
    grad_y: Tensor, grad_logdet: Tensor, x: Tensor, scale: Tensor, bias: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradient of `actnorm_conv1x1`, recomputed from its inputs alone.

    Returns:
        The gradients of x, scale, bias and weight.
    """
    dtype = compute_dtype(x.dtype)
    x_c, scale_c, gy = x.to(dtype), floored(scale, dtype), grad_y.to(dtype)
    gl = grad_logdet.to(dtype).sum()
    normed = torch.addcmul(bias.to(dtype), x_c, scale_c)
    channels = weight.shape[0]
    grad_weight = _matmul(normed.reshape(-1, channels).t(), gy.reshape(-1, channels))
    inverse = torch.linalg.inv_ex(weight.to(torch.float64)).inverse.to(dtype)
    grad_weight = torch.addcmul(grad_weight, inverse.t(), gl * _positions(scale))
    grad_normed = _matmul(gy, weight.to(dtype).t())
    grad_scale = ((grad_normed * x_c).sum(0) + gl / scale_c).masked_fill_(scale < MIN_SCALE, 0)
    return (
        (grad_normed * scale_c).to(x.dtype),
        grad_scale.to(scale.dtype),
        grad_normed.sum(0).to(bias.dtype),
        grad_weight.to(weight.dtype),
    )


def floored(scale: Tensor, dtype: torch.dtype) -> Tensor:
    """The scale as it acts: at least 1e-10."""
    return scale.to(dtype).clamp_min(MIN_SCALE)


def _logdet(scale: Tensor, weight: Tensor, dtype: torch.dtype) -> Tensor:
    log_scale = floored(scale, torch.float64).log().sum()
    log_det = torch.linalg.slogdet(weight.to(torch.float64)).logabsdet
    return (log_scale + _positions(scale) * log_det).to(dtype)


def _positions(scale: Tensor) -> int:
    return math.prod(scale.shape[:-1])


def _matmul(a: Tensor, b: Tensor) -> Tensor:
    device = a.device.type
    # A flow stays in its own dtype inside an autocast region.
    if device != "meta" and torch.is_autocast_enabled(device):
        with autocast(device, None):
            return a @ b
    return a @ b
