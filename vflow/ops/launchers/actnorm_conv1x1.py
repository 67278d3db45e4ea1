"""Activation normalisation and an invertible 1x1 convolution, and back, on a native library."""

from __future__ import annotations

import torch
from torch import Tensor

from vflow.ops.checks import logdet_dtype
from vflow.ops.launchers.call import Call, Rows, empty_contiguous


def actnorm_conv1x1(
    call: Call, x: Tensor, scale: Tensor, bias: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor]:
    """See `vflow.ops.actnorm_conv1x1`."""
    return _map("actnorm_conv1x1", call, x, scale, bias, weight)


def actnorm_conv1x1_inverse(
    call: Call, y: Tensor, scale: Tensor, bias: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor]:
    """See `vflow.ops.actnorm_conv1x1_inverse`."""
    return _map("actnorm_conv1x1_inverse", call, y, scale, bias, weight)


def actnorm_conv1x1_backward(
    call: Call,
    grad_y: Tensor,
    grad_logdet: Tensor,
    x: Tensor,
    scale: Tensor,
    bias: Tensor,
    weight: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of the four inputs, contiguous, recomputed from the inputs alone."""
    scale, bias, weight = scale.contiguous(), bias.contiguous(), weight.contiguous()
    grad_logdet = grad_logdet.contiguous()
    x_rows, grad_y_rows = Rows(x), Rows(grad_y)
    grad_x, grad_scale = empty_contiguous(x), torch.empty_like(scale)
    grad_bias, grad_weight = torch.empty_like(bias), torch.empty_like(weight)
    call(
        "actnorm_conv1x1_backward",
        x,
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
    function: str, call: Call, x: Tensor, scale: Tensor, bias: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor]:
    scale, bias, weight = scale.contiguous(), bias.contiguous(), weight.contiguous()
    rows = Rows(x)
    y, logdet = empty_contiguous(x), x.new_empty(x.shape[0], dtype=logdet_dtype(x.dtype))
    call(
        function,
        x,
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
