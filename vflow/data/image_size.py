"""Heights and widths, as users write them."""

from __future__ import annotations

import re
from operator import index
from typing import Any, TypeAlias

Size: TypeAlias = tuple[int, int]
"""Height and width in pixels."""


def parse_size(value: Any, name: str = "image_size") -> Size:
    """Read a height and width.

    Args:
        value: 32 or "32" for a square, "32x48" or (32, 48) for height 32 and width 48.
        name: What it is called in the error.

    Returns:
        (height, width).

    Raises:
        ValueError: If it is none of these.
    """
    parts: Any = (value, value)
    if isinstance(value, str):
        match = re.fullmatch(r"\s*(\d+)\s*(?:[xX,]\s*(\d+)\s*)?", value, re.ASCII)
        parts = (int(match[1]), int(match[2] or match[1])) if match else ()
    elif isinstance(value, tuple | list):
        parts = value
    try:
        height, width = (0 if isinstance(part, bool) else index(part) for part in parts)
    except (TypeError, ValueError):
        height = width = 0
    if min(height, width) < 1:
        raise ValueError(f"{name} must be a positive integer or HEIGHTxWIDTH, got {value!r}")
    return height, width


def size_text(size: Size) -> str:
    """A size as a user would write it: "32", or "32x48"."""
    height, width = size
    return str(height) if height == width else f"{height}x{width}"
