"""Images outside are [B, C, H, W], inside [B, H, W, C]."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor


def to_nhwc(x: Tensor) -> Tensor:
    """[B, C, H, W] -> [B, H, W, C], contiguous."""
    return x.permute(0, 2, 3, 1).contiguous()


def to_nchw(x: Tensor) -> Tensor:
    """[B, H, W, C] -> [B, C, H, W], a view."""
    return x.permute(0, 3, 1, 2)


def each(turn: Callable[[Tensor], Tensor], latent: Any) -> Any:
    """A latent with each of its tensors turned."""
    if isinstance(latent, tuple | list):
        return tuple(turn(part) for part in latent)
    return turn(latent)
