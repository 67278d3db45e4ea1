"""Whether an array can be images, and in one line what to do where it cannot."""

from __future__ import annotations

import numpy as np

_FEW = 4  # channels of ordinary images: grey or RGB, with or without alpha


def check_layout(shape: tuple[int, ...], name: str) -> tuple[int, ...]:
    """The shape [N, H, W, C] of stored images.

    [N, H, W] is grey. The last number is that of the channels if it is at most 4, whatever the
    others are; [N, C, H, W] is recognised by a last number above that and a second one of at most
    4, or smaller than both others, and refused: to guess wrong would be to train on noise.

    Raises:
        ValueError: If it is no such shape; says what to write where it knows.
    """
    rule = f"{name} must have a non-empty shape [N, H, W, C]"
    if 0 not in shape:
        if len(shape) == 4:
            _, first, second, last = shape
            if last > _FEW and (first <= _FEW or first < min(second, last)):
                raise ValueError(
                    f"{rule}, got {shape}, which looks like [N, C, H, W]: "
                    "save array.transpose(0, 2, 3, 1)"
                )
            return shape
        if len(shape) == 3 and shape[2] > _FEW:
            if 1 < shape[0] <= _FEW and shape[0] < min(shape[1:]):
                raise ValueError(
                    f"{rule}, got {shape}, which looks like one image [C, H, W]: save "
                    "array[..., None] if these are grey images"
                )
            return (*shape, 1)
        if len(shape) == 2:
            raise ValueError(f"{rule}, got {shape}, which looks like flat images: reshape them")
    raise ValueError(f"{rule}, got {shape}")


def check_dtype(dtype: np.dtype[np.generic], name: str) -> None:
    """Raise ValueError unless the elements are bytes; says what to write where it knows."""
    if dtype == np.uint8:
        return
    came, hint = str(dtype), ""
    if dtype.hasobject:
        came = "Python objects, which only pickle reads, and pickles can run any code"
    elif dtype.kind == "f":
        hint = ": save (255 * array).round().astype('uint8') if they lie in 0 to 1"
    elif dtype.kind in "iu":
        hint = ": save array.astype('uint8') if they lie in 0 to 255"
    elif dtype.kind == "b":
        hint = ": save 255 * array.astype('uint8')"
    raise ValueError(f"{name} must hold uint8, got {came}{hint}")
