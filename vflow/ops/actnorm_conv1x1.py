"""Activation normalisation followed by an invertible 1x1 convolution, and the inverse of both."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from vflow.ops.backend import Implementation, native_cpu, native_cuda, triton_gpu
from vflow.ops.checks import check_like, check_rank, check_shape, check_tensor, logdet_dtype
from vflow.ops.launchers import actnorm_conv1x1 as launchers
from vflow.ops.library import Operation
from vflow.ops.reference import actnorm_conv1x1 as reference
from vflow.ops.reference import composition
from vflow.ops.reference.actnorm_conv1x1 import floored
from vflow.ops.reference.precision import compute_dtype
from vflow.ops.transforms import require_autograd


def actnorm_conv1x1(
    x: Tensor,  # [B, ..., C]
    scale: Tensor,  # [..., C]
    bias: Tensor,  # [..., C]
    weight: Tensor,  # [C, C]
) -> tuple[Tensor, Tensor]:
    """Scale and shift each element, then mix the channels: (x * max(scale, 1e-10) + bias) @ weight.

    Args:
        x: Input [B, ..., C]: images [B, H, W, C] or vectors [B, C].
        scale: Scale of each element [..., C], of x's dtype; no gradient flows below 1e-10.
        bias: Bias of each element [..., C].
        weight: Channel matrix [C, C], row-vector convention.

    Returns:
        y like x, and logdet [B] in nats: sum log scale + H W log|det weight|, the determinant taken
        in float64; of float32 (float64 for float64). Differentiable.

    Raises:
        ValueError: If types, dtypes, devices or shapes do not fit, or a backend asked for by name
            cannot run this.
    """
    _check("x", x, scale, bias, weight)
    return _actnorm_conv1x1(x, scale, bias, weight)


def actnorm_conv1x1_inverse(
    y: Tensor,  # [B, ..., C]
    scale: Tensor,  # [..., C]
    bias: Tensor,  # [..., C]
    weight: Tensor,  # [C, C]
) -> tuple[Tensor, Tensor]:
    """Invert `actnorm_conv1x1`.

    Args:
        y: Output of `actnorm_conv1x1` [B, ..., C].
        scale: Scale of each element [..., C].
        bias: Bias of each element [..., C].
        weight: Channel matrix [C, C]; one that is singular gives non-finite results, as checking it
            would make the device wait.

    Returns:
        x like y, and logdet [B] of the inverse map in nats. Both can be differentiated once.

    Raises:
        ValueError: If types, dtypes, devices or shapes do not fit, or a backend asked for by name
            cannot run this.
    """
    _check("y", y, scale, bias, weight)
    inputs = (y, scale, bias, weight)
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs):
        require_autograd("actnorm_conv1x1_inverse", inputs)
        x, logdet = _Inverse.apply(*inputs)
        return x, logdet
    return _actnorm_conv1x1_inverse(*(tensor.detach() for tensor in inputs))


class _Inverse(torch.autograd.Function):
    """The gradient of the inverse, by way of the operation's own at x."""

    @staticmethod
    def forward(ctx: Any, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        x, logdet = _actnorm_conv1x1_inverse(*(tensor.detach() for tensor in inputs))
        ctx.save_for_backward(x, *inputs[1:])
        return x, logdet

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_x: Tensor, grad_logdet: Tensor) -> tuple[Tensor, ...]:
        x, *saved = ctx.saved_tensors
        dtype = compute_dtype(x.dtype)
        inverse = torch.linalg.inv_ex(saved[2].to(torch.float64)).inverse.to(dtype)
        grad_y = ((grad_x.to(dtype) / floored(saved[0], dtype)) @ inverse.t()).to(x.dtype)
        with torch.enable_grad():
            parameters = [tensor.detach().requires_grad_() for tensor in saved]
            outputs = actnorm_conv1x1(x, *parameters)
            return grad_y, *torch.autograd.grad(outputs, parameters, (-grad_y, -grad_logdet))


def _check(name: str, x: Any, scale: Any, bias: Any, weight: Any) -> None:
    check_tensor(name, x)
    check_rank(name, x, "[B, ..., C]", 2)
    for other, value in (("scale", scale), ("bias", bias)):
        check_like(other, value, name, x)
        check_shape(other, value, f"[..., C], {name}'s without B,", x.shape[1:])
    check_like("weight", weight, name, x)
    check_shape("weight", weight, "[C, C]", (x.shape[-1], x.shape[-1]))


def _empty(x: Tensor, scale: Tensor, bias: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty(x.shape[0], dtype=logdet_dtype(x.dtype))


_actnorm_conv1x1_backward = Operation(
    "actnorm_conv1x1_backward",
    "Tensor grad_y, Tensor grad_logdet, Tensor x, Tensor scale, Tensor bias, Tensor weight"
    " -> (Tensor, Tensor, Tensor, Tensor)",
    fake=lambda grad_y, grad_logdet, *inputs: tuple(t.new_empty(t.shape) for t in inputs),
    reference=Implementation(launch=reference.actnorm_conv1x1_backward),
    cpu=native_cpu(launchers.actnorm_conv1x1_backward),
    triton=triton_gpu("actnorm_conv1x1_backward", "actnorm_conv1x1_backward"),
    cuda=native_cuda(launchers.actnorm_conv1x1_backward),
)
_actnorm_conv1x1 = Operation(
    "actnorm_conv1x1",
    "Tensor x, Tensor scale, Tensor bias, Tensor weight -> (Tensor, Tensor)",
    fake=_empty,
    composition=composition.actnorm_conv1x1,
    backward=_actnorm_conv1x1_backward.run,
    reference=Implementation(launch=reference.actnorm_conv1x1),
    cpu=native_cpu(launchers.actnorm_conv1x1),
    triton=triton_gpu("actnorm_conv1x1", "actnorm_conv1x1"),
    cuda=native_cuda(launchers.actnorm_conv1x1),
)
_actnorm_conv1x1_inverse = Operation(
    "actnorm_conv1x1_inverse",
    "Tensor y, Tensor scale, Tensor bias, Tensor weight -> (Tensor, Tensor)",
    fake=_empty,
    composition=composition.actnorm_conv1x1_inverse,
    reference=Implementation(launch=reference.actnorm_conv1x1_inverse),
    cpu=native_cpu(launchers.actnorm_conv1x1_inverse),
    triton=triton_gpu("actnorm_conv1x1", "actnorm_conv1x1_inverse"),
    cuda=native_cuda(launchers.actnorm_conv1x1_inverse),
)
