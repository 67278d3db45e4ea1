"""elu of a tensor beside its negative, and its gradient, on a native library."""

from __future__ import annotations

import torch
from torch import Tensor

from vflow.ops.launchers.call import Call


def concat_elu(call: Call, x: Tensor) -> Tensor:
    """See `vflow.ops.concat_elu`."""
    x = x.contiguous()
    channels = x.shape[-1]
    y = x.new_empty(*x.shape[:-1], 2 * channels)
    call("concat_elu", x, x.data_ptr(), y.data_ptr(), x.numel() // channels, channels)
    return y


def concat_elu_backward(call: Call, grad: Tensor, x: Tensor) -> Tensor:
    """The gradient of x, contiguous, recomputed from x alone."""
    grad, x = grad.contiguous(), x.contiguous()
    channels = x.shape[-1]
    grad_x = torch.empty_like(x)
    call(
        "concat_elu_backward",
        x,
        grad.data_ptr(),
        x.data_ptr(),
        grad_x.data_ptr(),
        x.numel() // channels,
        channels,
    )
    return grad_x


def concat_elu_dropout(call: Call, x: Tensor, seed: Tensor, dropout: float) -> Tensor:
    """See `vflow.ops.concat_elu`. The seed is read on its device."""
    x, seed = x.contiguous(), seed.contiguous()
    channels = x.shape[-1]
    y = x.new_empty(*x.shape[:-1], 2 * channels)
    call(
        "concat_elu_dropout",
        x,
        x.data_ptr(),
        seed.data_ptr(),
        y.data_ptr(),
        x.numel() // channels,
        channels,
        dropout,
    )
    return y


def concat_elu_dropout_backward(
    call: Call, grad: Tensor, x: Tensor, seed: Tensor, dropout: float
) -> Tensor:
    """The gradient of x, contiguous, recomputed from x and the seed."""
    grad, x, seed = grad.contiguous(), x.contiguous(), seed.contiguous()
    channels = x.shape[-1]
    grad_x = torch.empty_like(x)
    call(
        "concat_elu_dropout_backward",
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
