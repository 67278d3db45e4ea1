"""Gated residual connection followed by LayerNorm, in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor

from vflow.ops.reference.precision import compute_dtype

EPS = 1e-5


def gated_residual_norm(x: Tensor, ab: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """See `vflow.ops.gated_residual_norm`."""
    dtype = compute_dtype(x.dtype)
    a, b = ab.to(dtype).chunk(2, dim=-1)
    residual = torch.addcmul(x.to(dtype), a, torch.sigmoid(b))
    return torch.native_layer_norm(residual, x.shape[-1:], weight.to(dtype), bias.to(dtype), EPS)[
        0
    ].to(x.dtype)


def gated_residual_norm_backward(
    grad: Tensor, x: Tensor, ab: Tensor, weight: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradient of `gated_residual_norm`, recomputed from its inputs alone.

    Returns:
        The gradients of x, ab, weight and bias.
    """
    dtype, shape = compute_dtype(x.dtype), x.shape[-1:]
    a, b = ab.to(dtype).chunk(2, dim=-1)
    gate = torch.sigmoid(b)
    weight_c, bias_c = weight.to(dtype), bias.to(dtype)
    residual = torch.addcmul(x.to(dtype), a, gate)
    _, mean, rstd = torch.native_layer_norm(residual, shape, weight_c, bias_c, EPS)
    grad_x, grad_weight, grad_bias = torch.ops.aten.native_layer_norm_backward(
        grad.to(dtype).contiguous(),
        residual,
        shape,
        mean,
        rstd,
        weight_c,
        bias_c,
        [True, True, True],
    )
    grad_ab = torch.empty(ab.shape, dtype=ab.dtype, device=ab.device)
    grad_a, grad_b = grad_ab.chunk(2, dim=-1)
    grad_gated = grad_x * gate
    grad_a.copy_(grad_gated)
    grad_b.copy_(grad_gated.mul_(a).mul_(1 - gate))
    return (
        grad_x.to(x.dtype),
        grad_ab,
        grad_weight.to(weight.dtype),
        grad_bias.to(bias.dtype),
    )
