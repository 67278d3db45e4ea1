"""Layers that only move elements: splits into halves, the flip, space to depth."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vflow.flows.base import Halves, Move, Shapes, zero_logdet
from vflow.flows.embedding import CannotEmbed, Places, join


class CheckerboardSplit(Move):
    """Even columns and odd columns: [B, H, W, C] <-> 2 x [B, H, W/2, C]."""

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Halves, Tensor]:
        """Split; the halves are views of x."""
        return (x[:, :, 0::2], x[:, :, 1::2]), zero_logdet(x)

    def inverse(self, y: Halves, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Interleave."""
        return torch.stack(y, dim=3).flatten(2, 3), zero_logdet(y[0])

    def output_shape(self, shape: Shapes) -> Shapes:
        """[H, W, C] -> twice [H, W/2, C]."""
        height, width, channels = shape
        return ((height, width // 2, channels),) * 2

    def input_shape(self, shape: Shapes) -> Shapes:
        """Twice [H, W/2, C] -> [H, W, C]."""
        height, width, channels = shape[0]
        return (height, 2 * width, channels)

    def embed(self, narrow: Any, places: Places) -> tuple[Places, Places]:
        """The channels stay where they are."""
        return places, places

    def embed_inverse(self, narrow: Any, places: tuple[Places, Places]) -> Places:
        """The channels stay where they are, the same in both halves."""
        if places[0] != places[1]:
            raise CannotEmbed(
                "CheckerboardSplit cannot be undone where the halves' channels are in other places"
            )
        return places[0]


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

    def output_shape(self, shape: Shapes) -> Shapes:
        """[..., C] -> [..., first], [..., C - first]."""
        return (*shape[:-1], self.first), (*shape[:-1], shape[-1] - self.first)

    def input_shape(self, shape: Shapes) -> Shapes:
        """[..., first], [..., C - first] -> [..., C]."""
        return (*shape[0][:-1], shape[0][-1] + shape[1][-1])

    def embed(self, narrow: Any, places: Places) -> tuple[Places, Places]:
        """Each half of `narrow` has to be within a half of this."""
        first, second = places.channels[: narrow.first], places.channels[narrow.first :]
        if any(place >= self.first for place in first) or any(p < self.first for p in second):
            raise CannotEmbed(
                f"ChannelSplit parts {places.total} channels after the first {self.first}, which "
                f"does not part the flow's own, at {list(places.channels)}, after the first "
                f"{narrow.first}"
            )
        return (
            places.part(first, 0, self.first),
            places.part(second, self.first, places.total),
        )

    def embed_inverse(self, narrow: Any, places: tuple[Places, Places]) -> Places:
        """The second half's channels come after the first half's."""
        return join(places)

    def wanted_places(self, narrow: Any, places: Places) -> Places:
        """The halves of `narrow` at the start of the halves."""
        index = [
            channel if channel < narrow.first else self.first + channel - narrow.first
            for channel in range(len(places.channels))
        ]
        return Places(tuple(index), places.total, (0.0,) * places.total)


class TupleFlip(Move):
    """Swap the halves."""

    def forward(self, x: Halves, context: Tensor | None = None) -> tuple[Halves, Tensor]:
        """Swap."""
        return (x[1], x[0]), zero_logdet(x[0])

    def inverse(self, y: Halves, context: Tensor | None = None) -> tuple[Halves, Tensor]:
        """Swap back."""
        return self.forward(y)

    def output_shape(self, shape: Shapes) -> Shapes:
        """Swapped."""
        return (shape[1], shape[0])

    def input_shape(self, shape: Shapes) -> Shapes:
        """Swapped."""
        return (shape[1], shape[0])

    def embed(self, narrow: Any, places: tuple[Places, Places]) -> tuple[Places, Places]:
        """Swapped."""
        return (places[1], places[0])


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

    def output_shape(self, shape: Shapes) -> Shapes:
        """[H, W, C] -> [H/2, W/2, 4C]."""
        height, width, channels = shape
        return (height // 2, width // 2, 4 * channels)

    def input_shape(self, shape: Shapes) -> Shapes:
        """[H/2, W/2, 4C] -> [H, W, C]."""
        height, width, channels = shape
        return (2 * height, 2 * width, channels // 4)

    def embed(self, narrow: Any, places: Places) -> Places:
        """The same places in each of a block's four pixels."""
        return join([places] * 4)
