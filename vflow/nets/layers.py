"""Convolutions on NHWC activations, with Flow++'s data-dependent initialisation."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vflow.ops import backend, exact

INITIAL_STD = 0.05
VARIANCE_EPSILON = 1e-8


class DataInitialized(nn.Module):
    """A linear map whose output is normalised over the first batch it sees.

    `vflow.models.initialization` calls `data_init` on a layer's first input, once, before the
    layer's own forward: so layers are initialised in order, each on the outputs of those before.

    Args:
        weight_shape: Shape of the weight, [out, ...].
        init_scale: Standard deviation of every output channel after initialisation.
    """

    def __init__(self, weight_shape: tuple[int, ...], init_scale: float) -> None:
        super().__init__()
        self.init_scale = init_scale
        self.weight = nn.Parameter(torch.randn(weight_shape) * INITIAL_STD)
        self.bias = nn.Parameter(torch.zeros(weight_shape[0]))

    @torch.no_grad()
    def data_init(self, x: Tensor) -> None:
        """Rescale so that the output on `x` has mean 0 and std `init_scale` in every channel."""
        y = self.forward(x)
        variance, mean = torch.var_mean(y, dim=tuple(range(y.ndim - 1)), correction=0)
        inverse = torch.rsqrt(variance + VARIANCE_EPSILON)
        # A channel that is the same everywhere has nothing to be scaled by.
        scale = self.init_scale * torch.where(variance > VARIANCE_EPSILON, inverse, 1)
        self.bias.sub_(mean).mul_(scale)
        self.weight.mul_(scale.view(-1, *(1,) * (self.weight.ndim - 1)))

    def as_made(self) -> Tensor:
        """Whether the bias is still the constructor's, as a bool []."""
        return (self.bias == 0).all()


class Conv3x3(DataInitialized):
    """3x3 convolution with zero padding: [B, H, W, in] -> [B, H, W, out].

    In `torch.channels_last` the weight lies as the convolution wants it, and no pass makes a copy;
    contiguous, it can be flattened by `view`, as users of `parameters()` do.
    """

    def __init__(self, in_channels: int, out_channels: int, init_scale: float = 1.0) -> None:
        super().__init__((out_channels, in_channels, 3, 3), init_scale)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the convolution."""
        if backend.is_exact():
            return exact.convolution(x, self.weight, self.bias)
        # A permuted NHWC tensor is what PyTorch calls channels_last: nothing is copied.
        x_nchw = x.permute(0, 3, 1, 2)
        return F.conv2d(x_nchw, self.weight, self.bias, padding=1).permute(0, 2, 3, 1)


class Pointwise(DataInitialized):
    """1x1 convolution, that is a linear map of the channels: [..., in] -> [..., out]."""

    def __init__(self, in_channels: int, out_channels: int, init_scale: float = 1.0) -> None:
        super().__init__((out_channels, in_channels), init_scale)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the map."""
        if backend.is_exact():
            return exact.convolution(x, self.weight, self.bias)
        return F.linear(x, self.weight, self.bias)
