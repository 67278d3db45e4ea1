"""Layers that only move elements: splits into halves, the flip, space to depth."""

from __future__ import annotations

import torch
from torch import Tensor

from vflow.flows.base import Halves, Move, zero_logdet


class CheckerboardSplit(Move):
    """Even columns and odd columns: [B, H, W, C] <-> 2 x [B, H, W/2, C]."""

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Halves, Tensor]:
        """Split; the halves are views of x."""
        return (x[:, :, 0::2], x[:, :, 1::2]), zero_logdet(x)

    def inverse(self, y: Halves, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Interleave."""
        return torch.stack(y, dim=3).flatten(2, 3), zero_logdet(y[0])


class ChannelSplit(Move):
    """The first `first` channels and the others: [..., C] <-> [..., first], [..., C - first]."""

    def __init__(self, first: int) -> None:
        super().__init__()
        self.first = first

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Halves, Tensor]:
        """Split; the halves are views of x."""
        return (x[..., : self.first], x[..., self.first :]), zero_logdet(x)

    def inverse(self, y: Halves, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Concatenate."""
        return torch.cat(y, dim=-1), zero_logdet(y[0])


class TupleFlip(Move):
    """Swap the halves."""

    def forward(self, x: Halves, context: Tensor | None = None) -> tuple[Halves, Tensor]:
        """Swap."""
        return (x[1], x[0]), zero_logdet(x[0])

    def inverse(self, y: Halves, context: Tensor | None = None) -> tuple[Halves, Tensor]:
        """Swap back."""
        return self.forward(y)


class SpaceToDepth(Move):
    """2x2 blocks into channels: [B, H, W, C] <-> [B, H/2, W/2, 4C].

    The order of the new channels is TensorFlow's: row in the block, column in the block, channel.
    """

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Gather each block."""
        batch, height, width, channels = x.shape
        blocks = x.view(batch, height // 2, 2, width // 2, 2, channels)
        y = blocks.permute(0, 1, 3, 2, 4, 5).reshape(batch, height // 2, width // 2, 4 * channels)
        return y, zero_logdet(x)

    def inverse(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Lay the blocks out again."""
        batch, height, width, channels = y.shape
        blocks = y.view(batch, height, width, 2, 2, channels // 4)
        x = blocks.permute(0, 1, 3, 2, 4, 5).reshape(batch, 2 * height, 2 * width, channels // 4)
        return x, zero_logdet(y)
