"""Activation normalisation and an invertible 1x1 convolution, and back, on the CUDA library."""

from __future__ import annotations

import torch
from torch import Tensor

from vflow.ops.checks import logdet_dtype
from vflow.ops.native import Rows, call_cuda, workspace


def actnorm_conv1x1(
    x: Tensor, scale: Tensor, bias: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor]:
    """See `vflow.ops.actnorm_conv1x1`."""
    return _map("vflow_cuda_actnorm_conv1x1", x, scale, bias, weight)


def actnorm_conv1x1_inverse(
    y: Tensor, scale: Tensor, bias: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor]:
    """See `vflow.ops.actnorm_conv1x1_inverse`."""
    return _map("vflow_cuda_actnorm_conv1x1_inverse", y, scale, bias, weight)


def actnorm_conv1x1_backward(
    grad_y: Tensor, grad_logdet: Tensor, x: Tensor, scale: Tensor, bias: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of the four inputs, contiguous, recomputed from the inputs alone."""
    scale, bias, weight = scale.contiguous(), bias.contiguous(), weight.contiguous()
    grad_logdet = grad_logdet.contiguous()
    x_rows, grad_y_rows = Rows(x), Rows(grad_y)
    grad_x, grad_scale, grad_bias, grad_weight = (
        torch.empty(t.shape, dtype=x.dtype, device=x.device) for t in (x, scale, bias, weight)
    )
    function, sizes = "vflow_cuda_actnorm_conv1x1_backward", _sizes(x, scale)
    room = workspace(function, x, *sizes)
    call_cuda(
        function,
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
        *sizes,
        room.data_ptr(),
        room.numel(),
    )
    return grad_x, grad_scale, grad_bias, grad_weight


def _map(
    function: str, x: Tensor, scale: Tensor, bias: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor]:
    scale, bias, weight = scale.contiguous(), bias.contiguous(), weight.contiguous()
    rows, sizes = Rows(x), _sizes(x, scale)
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    logdet = torch.empty(x.shape[0], dtype=logdet_dtype(x.dtype), device=x.device)
    room = workspace(function, x, *sizes)
    call_cuda(
        function,
        x,
        *rows.arguments,
        scale.data_ptr(),
        bias.data_ptr(),
        weight.data_ptr(),
        y.data_ptr(),
        logdet.data_ptr(),
        *sizes,
        room.data_ptr(),
        room.numel(),
    )
    return y, logdet


def _sizes(x: Tensor, scale: Tensor) -> tuple[int, int, int]:
    """Batch, positions of an image, channels."""
    channels = x.shape[-1]
    return x.shape[0], scale.numel() // channels, channels
