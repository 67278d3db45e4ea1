"""A convolution that starts at zero, whatever the data: what follows starts as it rests."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vflow.ops import conv3x3


class ZeroConv3x3(nn.Module):
    """3x3 convolution with zero padding, weights and biases of zero: [B, H, W, in] -> [.., out]."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(out_channels, in_channels, 3, 3))
        self.bias = nn.Parameter(torch.zeros(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        """Apply the convolution."""
        return conv3x3(x, self.weight, self.bias)
