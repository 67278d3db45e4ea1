"""elu of a tensor beside its negative, and its gradient, on the native CUDA library."""

from __future__ import annotations

import torch
from torch import Tensor

from vflow.ops.native import call_cuda


def concat_elu(x: Tensor) -> Tensor:
    """See `vflow.ops.concat_elu`."""
    x = x.contiguous()
    channels = x.shape[-1]
    y = torch.empty((*x.shape[:-1], 2 * channels), dtype=x.dtype, device=x.device)
    call_cuda(
        "vflow_cuda_concat_elu",
        x,
        x.data_ptr(),
        y.data_ptr(),
        x.numel() // channels,
        channels,
    )
    return y


def concat_elu_backward(grad: Tensor, x: Tensor) -> Tensor:
    """The gradient of x, contiguous, recomputed from x alone."""
    grad, x = grad.contiguous(), x.contiguous()
    channels = x.shape[-1]
    grad_x = torch.empty_like(x)
    call_cuda(
        "vflow_cuda_concat_elu_backward",
        x,
        grad.data_ptr(),
        x.data_ptr(),
        grad_x.data_ptr(),
        x.numel() // channels,
        channels,
    )
    return grad_x


def concat_elu_dropout(x: Tensor, seed: Tensor, dropout: float) -> Tensor:
    """See `vflow.ops.concat_elu`. The seed is read on the device."""
    x, seed = x.contiguous(), seed.contiguous()
    channels = x.shape[-1]
    y = torch.empty((*x.shape[:-1], 2 * channels), dtype=x.dtype, device=x.device)
    call_cuda(
        "vflow_cuda_concat_elu_dropout",
        x,
        x.data_ptr(),
        seed.data_ptr(),
        y.data_ptr(),
        x.numel() // channels,
        channels,
        dropout,
    )
    return y


def concat_elu_dropout_backward(grad: Tensor, x: Tensor, seed: Tensor, dropout: float) -> Tensor:
    """The gradient of x, contiguous, recomputed from x and the seed."""
    grad, x, seed = grad.contiguous(), x.contiguous(), seed.contiguous()
    channels = x.shape[-1]
    grad_x = torch.empty_like(x)
    call_cuda(
        "vflow_cuda_concat_elu_dropout_backward",
        x,
        grad.data_ptr(),
        x.data_ptr(),
        seed.data_ptr(),
        grad_x.data_ptr(),
        x.numel() // channels,
        channels,
        dropout,
    )
    return grad_x
