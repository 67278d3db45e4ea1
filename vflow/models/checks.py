"""Checks of what users hand to a model: each error names the argument, the rule and what came."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vflow.io.fields import plain, require_int, require_number


def require_count(name: str, value: Any) -> int:
    """The whole number `value`, of Python's kind; ValueError unless it is at least 1."""
    value = plain(value)
    require_int(name, value, 1)
    return int(value)


def require_temperature(value: Any) -> float:
    """The finite number `value`, of Python's kind; ValueError if it is below 0."""
    value = plain(value)
    require_number("temperature", value, least=0)
    return float(value)


def require_images(images: Any, shape: tuple[int, ...], device: torch.device) -> None:
    """Raise ValueError unless `images` is uint8 [B, *shape], B at least 1, on `device`."""
    if not isinstance(images, Tensor) or images.dtype != torch.uint8:
        raise ValueError(f"images must be a uint8 tensor, got {_type_of(images)}")
    if tuple(images.shape[1:]) != shape or images.ndim != 1 + len(shape) or images.shape[0] == 0:
        raise ValueError(
            f"images must have shape [B, {_list(shape)}] with B at least 1, "
            f"got {tuple(images.shape)}"
        )
    _require_device("images", images, device)


def require_float(
    name: str, value: Any, shape: tuple[int, ...], like: Tensor, batch: int | None = None
) -> None:
    """Raise ValueError unless `value` is [batch, *shape] of the type and on the device of `like`.

    Without `batch`, any number of at least 1 will do.
    """
    if not isinstance(value, Tensor) or value.dtype != like.dtype:
        raise ValueError(
            f"{name} must be a tensor of the model's {like.dtype}, got {_type_of(value)}"
        )
    rows = value.shape[0] if batch is None and value.ndim else batch
    if tuple(value.shape) != (rows, *shape) or rows == 0:
        raise ValueError(
            f"{name} must have shape [{batch or 'B'}, {_list(shape)}], got {tuple(value.shape)}"
        )
    _require_device(name, value, like.device)


def _require_device(name: str, value: Tensor, device: torch.device) -> None:
    if value.device != device:
        raise ValueError(f"{name} must be on the model's {device}, got {value.device}")


def _type_of(value: Any) -> str:
    return str(value.dtype) if isinstance(value, Tensor) else type(value).__name__


def _list(shape: tuple[int, ...]) -> str:
    return ", ".join(map(str, shape))
