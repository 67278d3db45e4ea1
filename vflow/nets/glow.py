"""The network of Glow's couplings (Kingma & Dhariwal, 2018): convolutions 3x3, 1x1, 3x3."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vflow.nets.embedding import copy_parameters, embed_inputs, embed_outputs
from vflow.ops import backend, conv3x3, exact

INITIAL_STD = 0.05
STD_EPSILON = 1e-6
LOG_SCALE_FACTOR = 3.0


class NormedConv(nn.Module):
    """A convolution, then a shift and a scale per channel: (conv(x) + bias) exp(log_scale).

    `data_init` makes every channel of the output have mean 0 and standard deviation 1.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel: 3 or 1, with zero padding that keeps the size.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(
            torch.randn(out_channels, in_channels, kernel, kernel).mul_(INITIAL_STD)
        )
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.log_scale = nn.Parameter(torch.zeros(out_channels))

    @torch.no_grad()
    def data_init(self, x: Tensor) -> None:
        """Set bias and log_scale from the input [B, H, W, in]."""
        y = convolve(x, self.weight, None).flatten(0, -2)
        variance, mean = torch.var_mean(y, dim=0, correction=0)
        self.bias.copy_(-mean)
        self.log_scale.copy_(-torch.log(variance.sqrt() + STD_EPSILON))

    def as_made(self) -> Tensor:
        """Whether the bias is still the constructor's, as a bool []."""
        return (self.bias == 0).all()

    def forward(self, x: Tensor) -> Tensor:
        """x [B, H, W, in] -> [B, H, W, out]."""
        scale = _exp(self.log_scale)  # on the weights, which are fewer than the pixels
        return convolve(x, self.weight * scale.view(-1, 1, 1, 1), self.bias * scale)


class ZeroConv(nn.Module):
    """A 3x3 convolution that starts at zero: (conv(x) + bias) exp(3 log_scale).

    The factor makes the scale learn faster than the weights, as in openai/glow.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(out_channels, in_channels, 3, 3))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.log_scale = nn.Parameter(torch.zeros(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        """x [B, H, W, in] -> [B, H, W, out]."""
        scale = _exp(LOG_SCALE_FACTOR * self.log_scale)
        return convolve(x, self.weight * scale.view(-1, 1, 1, 1), self.bias * scale)

    @torch.no_grad()
    def embed(self, narrow: ZeroConv, inputs: Any, outputs: Any, resting: Tensor) -> None:
        """Give what `narrow` gives, blind to the extra inputs (`vflow.nets.embedding`)."""
        middle = torch.zeros(len(narrow.weight), *self.weight.shape[1:]).to(self.weight)
        embed_inputs(middle, narrow.weight, inputs)
        embed_outputs(self.weight, middle, outputs, None)
        embed_outputs(self.bias, narrow.bias, outputs, resting)
        embed_outputs(self.log_scale, narrow.log_scale, outputs, None)


class GlowNet(nn.Module):
    """conv 3x3, ReLU, conv 1x1, ReLU, conv 3x3 that starts at zero.

    `compute_dtype` may be set to a half precision type: the network then runs under autocast and
    its output is cast back to the input's type.

    Args:
        in_channels: Channels of the half that conditions.
        out_channels: Channels of the parameters.
        width: Channels of the hidden layers.
    """

    def __init__(self, in_channels: int, out_channels: int, width: int) -> None:
        super().__init__()
        self.compute_dtype: torch.dtype | None = None
        self.conv1 = NormedConv(in_channels, width, 3)
        self.conv2 = NormedConv(width, width, 1)
        self.conv3 = ZeroConv(width, out_channels)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """x [B, H, W, in] -> [B, H, W, out]."""
        dtype = self.compute_dtype
        with torch.autocast(x.device.type, dtype=dtype, enabled=dtype is not None):
            hidden = F.relu(self.conv1(x))
            return self.conv3(F.relu(self.conv2(hidden))).to(x.dtype)

    @torch.no_grad()
    def embed(self, narrow: GlowNet, inputs: Any, outputs: Any, resting: Tensor) -> None:
        """Give what `narrow` gives, blind to the extra inputs (`vflow.nets.embedding`)."""
        copy_parameters(self, narrow, without=("conv1.weight", "conv3"))
        embed_inputs(self.conv1.weight, narrow.conv1.weight, inputs)
        width = self.conv3.weight.shape[1]
        self.conv3.embed(narrow.conv3, _All(width), outputs, resting)


class _All:
    """Places of a tensor that is no wider."""

    def __init__(self, total: int) -> None:
        self.channels, self.total = tuple(range(total)), total


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A convolution of NHWC images that keeps their size: [B, H, W, in] -> [B, H, W, out]."""
    bias = weight.new_zeros(len(weight)) if bias is None else bias
    if weight.shape[-1] == 3:
        return conv3x3(x, weight, bias)
    if backend.is_exact():
        return exact.convolution(x, weight.flatten(1), bias)
    return F.linear(x, weight.flatten(1), bias)


def _exp(x: Tensor) -> Tensor:
    if backend.is_exact():
        return exact.function("exp", x.double()).to(x.dtype)
    return x.exp()
