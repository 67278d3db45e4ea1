"""Activation normalisation and a 1x1 convolution, forwards and back, on the native CPU library."""

from __future__ import annotations

import torch
from torch import Tensor

from vflow.ops.checks import logdet_dtype
from vflow.ops.native import Rows, call


def actnorm_conv1x1(
    x: Tensor, scale: Tensor, bias: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor]:
    """See `vflow.ops.actnorm_conv1x1`."""
    return _map("vflow_cpu_actnorm_conv1x1", x, scale, bias, weight)


def actnorm_conv1x1_inverse(
    y: Tensor, scale: Tensor, bias: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor]:
    """See `vflow.ops.actnorm_conv1x1_inverse`."""
    return _map("vflow_cpu_actnorm_conv1x1_inverse", y, scale, bias, weight)


def actnorm_conv1x1_backward(
    grad_y: Tensor, grad_logdet: Tensor, x: Tensor, scale: Tensor, bias: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of the four inputs, contiguous, recomputed from the inputs alone."""
    scale, bias, weight = scale.contiguous(), bias.contiguous(), weight.contiguous()
    grad_logdet = grad_logdet.contiguous()
    x_rows, grad_y_rows = Rows(x), Rows(grad_y)
    grad_x, grad_scale, grad_bias, grad_weight = (
        torch.empty(t.shape, dtype=x.dtype) for t in (x, scale, bias, weight)
    )
    call(
        "vflow_cpu_actnorm_conv1x1_backward",
        x.dtype,
        *grad_y_rows.arguments,
        grad_logdet.data_ptr(),
        *x_rows.arguments,
        scale.data_ptr(),
        bias.data_ptr(),
        weight.data_ptr(),
        grad_x.data_ptr(),
        grad_scale.data_ptr(),
        grad_bias.data_ptr(),
        grad_weight.data_ptr(),
        *_sizes(x, scale),
    )
    return grad_x, grad_scale, grad_bias, grad_weight


def _map(
    function: str, x: Tensor, scale: Tensor, bias: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor]:
    scale, bias, weight = scale.contiguous(), bias.contiguous(), weight.contiguous()
    rows = Rows(x)
    y = torch.empty(x.shape, dtype=x.dtype)
    logdet = torch.empty(x.shape[0], dtype=logdet_dtype(x.dtype))
    call(
        function,
        x.dtype,
        *rows.arguments,
        scale.data_ptr(),
        bias.data_ptr(),
        weight.data_ptr(),
        y.data_ptr(),
        logdet.data_ptr(),
        *_sizes(x, scale),
    )
    return y, logdet


def _sizes(x: Tensor, scale: Tensor) -> tuple[int, int, int]:
    """Batch, positions of an image, channels."""
    channels = x.shape[-1]
    return x.shape[0], scale.numel() // channels, channels
