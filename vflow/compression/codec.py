"""Pictures as ordinary lossless codecs write them, and read back within bounds."""

from __future__ import annotations

import io
import math
import warnings

import numpy as np
from numpy.typing import NDArray
from PIL import Image, features

MAX_SIDE = 16383
"""Pixels in a side of a WebP."""
FORMATS = ("PNG", "WEBP")
TILES_METHOD = 4
"""WebP's effort on tiles; those beyond take up to 40 times as long and are no smaller."""


def encode_picture(pixels: NDArray[np.uint8], method: int = 6) -> bytes:
    """The smaller of PNG and lossless WebP.

    Args:
        pixels: [H, W, C], C at most 4, or more than 4 planes, which come one below the other.
        method: WebP's effort, from 0 to 6.
    """
    image = Image.fromarray(_as_plane(pixels))
    candidates = [_save(image, "PNG", optimize=True)]
    if features.check("webp") and max(image.size) <= MAX_SIDE:
        webp = _save(image, "WEBP", lossless=True, quality=100, method=method, exact=True)
        candidates.append(webp)
    return min(candidates, key=len)


def decode_picture(data: bytes, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Read what `encode_picture` wrote of a picture [H, W, C].

    Raises:
        ValueError: If it is not one of that shape.
    """
    height, width, channels = shape
    plane = _as_plane(np.empty((0, width, channels), np.uint8))
    rows = height * (channels if plane.ndim == 2 and channels > 1 else 1)
    mode = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[plane.shape[2] if plane.ndim == 3 else 1]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                if image.size != (width, rows):
                    raise ValueError(f"it is {image.size[0]}x{image.size[1]}")
                pixels = np.asarray(image.convert(mode))
    except (
        OSError,
        ValueError,
        SyntaxError,
        LookupError,
        ArithmeticError,
        TypeError,
        Image.DecompressionBombError,
    ) as error:
        raise ValueError(
            f"a picture of {width}x{rows} by an ordinary codec is damaged: {error}"
        ) from error
    if plane.ndim == 2 and channels > 1:
        return pixels.reshape(channels, height, width).transpose(1, 2, 0)
    return pixels.reshape(shape)


def encode_tiles(tiles: NDArray[np.uint8]) -> bytes:
    """Tiles [N, H, W, C] as one picture, side by side in a few columns."""
    return encode_picture(_mosaic(tiles), TILES_METHOD)


def decode_tiles(data: bytes, shape: tuple[int, int, int, int]) -> NDArray[np.uint8]:
    """Read what `encode_tiles` wrote of tiles [N, H, W, C].

    Raises:
        ValueError: If it is not one of that shape.
    """
    count, height, width, channels = shape
    columns, rows = _layout(count, height)
    mosaic = decode_picture(data, (rows * height, columns * width, channels))
    tiles = mosaic.reshape(rows, height, columns, width, channels).swapaxes(1, 2)
    return tiles.reshape(-1, height, width, channels)[:count]


def _mosaic(tiles: NDArray[np.uint8]) -> NDArray[np.uint8]:
    count, height, width, channels = tiles.shape
    columns, rows = _layout(count, height)
    canvas = np.zeros((rows * columns, height, width, channels), np.uint8)
    canvas[:count] = tiles
    canvas = canvas.reshape(rows, columns, height, width, channels).swapaxes(1, 2)
    return canvas.reshape(rows * height, columns * width, channels)


def _layout(count: int, height: int) -> tuple[int, int]:
    """Columns and rows."""
    columns = max(1, math.isqrt(count))
    while -(-count // columns) * height > MAX_SIDE:
        columns *= 2
    return columns, -(-count // columns)


def _as_plane(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """What Pillow takes: grey without channels; channels of no colour space one below the other."""
    height, width, channels = pixels.shape
    if channels in (3, 4):
        return pixels
    return pixels.transpose(2, 0, 1).reshape(height * channels, width)


def _save(image: Image.Image, name: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=name, **options)
    return buffer.getvalue()
