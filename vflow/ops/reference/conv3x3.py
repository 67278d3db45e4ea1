"""3x3 convolution of NHWC activations, in plain PyTorch: its own convolution."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def convolve(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x [B, H, W, in], weight [out, in, 3, 3] -> [B, H, W, out]."""
    # A permuted NHWC tensor is what PyTorch calls channels_last: nothing is copied.
    return functional.conv2d(x.permute(0, 3, 1, 2), weight, bias, padding=1).permute(0, 2, 3, 1)


def conv3x3(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """See `vflow.ops.conv3x3`; weight and bias may be of another dtype than x."""
    return convolve(x, weight.to(x.dtype), bias.to(x.dtype)).contiguous()


def conv3x3_backward(grad: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, of the weight and of the bias, by autograd through PyTorch's own."""
    with torch.enable_grad():
        leaves = [t.detach().requires_grad_() for t in (x, weight, weight.new_zeros(len(weight)))]
        grads = torch.autograd.grad(conv3x3(*leaves), leaves, grad)
    return grads[0].contiguous(), grads[1], grads[2]
