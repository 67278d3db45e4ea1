"""conv3x3 and its gradients on a native library: the CPU's alone."""

from __future__ import annotations

import torch
from torch import Tensor

from vflow.ops.launchers.call import Call


def conv3x3(call: Call, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """See `vflow.ops.conv3x3`."""
    return _convolved(call, x, weight, bias, transposed=False)


def conv3x3_backward(
    call: Call, grad: Tensor, x: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, of the weight, in `torch.channels_last`, and of the bias."""
    grad, x = grad.contiguous(), x.contiguous()
    outputs, inputs = weight.shape[:2]
    grad_x = _convolved(call, grad, weight, weight.new_zeros(inputs), transposed=True)
    grad_weight = weight.new_empty(outputs, 3, 3, inputs, dtype=torch.float32)
    call(
        "conv3x3_backward",
        x,
        grad.data_ptr(),
        x.data_ptr(),
        grad_weight.data_ptr(),
        *x.shape,
        outputs,
    )
    grad_bias = grad.sum((0, 1, 2), dtype=weight.dtype)
    return grad_x, grad_weight.permute(0, 3, 1, 2).to(weight.dtype), grad_bias


def _convolved(call: Call, x: Tensor, weight: Tensor, bias: Tensor, *, transposed: bool) -> Tensor:
    x, bias = x.contiguous(), bias.float().contiguous()
    rows = weight.permute(0, 2, 3, 1).float().contiguous()  # in `torch.channels_last` they lie so
    out = len(bias)
    y = x.new_empty(*x.shape[:-1], out)
    call(
        "conv3x3",
        x,
        x.data_ptr(),
        rows.data_ptr(),
        bias.data_ptr(),
        y.data_ptr(),
        *x.shape,
        out,
        transposed,
    )
    return y
