"""What ordinary lossless codecs make of images: a yardstick for a model's bits/dim.

The images are tiled into one mosaic, so that a file's header hardly counts. That helps the codecs
by sharing one header and their tables, and hurts them a little at the seams, where neighbouring
pixels belong to different images.
"""

from __future__ import annotations

import io
import math

import numpy as np
import torch
from PIL import Image, features
from torch import Tensor

from vflow.runtime.extras import require

MAX_SIDE = 8192
"""Pixels in a mosaic's side; images that need more go into several. WebP ends at 16383."""

SETTINGS: dict[str, dict[str, object]] = {
    "png": {"optimize": True, "compress_level": 9},
    "webp": {"lossless": True, "quality": 100, "method": 6},
}
"""Pillow's name of each codec -> its best effort."""


def codec_bits_per_dim(images: Tensor) -> dict[str, float]:
    """Bits per data dimension of the images as PNG and as lossless WebP, each at its best effort.

    The whole files count, headers included; places of a mosaic that no image fills are black,
    and count among the bits but not among the dimensions.

    Args:
        images: uint8 [N, C, H, W], C = 1 (grey) or 3 (RGB).

    Returns:
        {"png": bits/dim, "webp": bits/dim}.

    Raises:
        ValueError: If the images are of another type or shape.
        OSError: If Pillow was built without WebP.
    """
    require_codec_images(images)
    pixels = images.permute(0, 2, 3, 1).cpu().numpy()
    height, width = pixels.shape[1:3]
    if max(height, width) > MAX_SIDE:
        raise ValueError(f"images must be at most {MAX_SIDE} pixels a side, got {height}x{width}")
    room = (MAX_SIDE // height) * (MAX_SIDE // width)
    mosaics = [_mosaic(pixels[start : start + room]) for start in range(0, len(pixels), room)]
    return {
        codec: 8 * sum(encoded_bytes(mosaic, codec, options) for mosaic in mosaics) / pixels.size
        for codec, options in SETTINGS.items()
    }


def _mosaic(pixels: np.ndarray) -> Image.Image:
    """Images [N, H, W, C] side by side, about square."""
    count, height, width, channels = pixels.shape
    columns = min(MAX_SIDE // width, math.ceil(math.sqrt(count * height / width)))
    rows = math.ceil(count / columns)
    canvas = np.zeros((rows * columns, height, width, channels), dtype=np.uint8)
    canvas[:count] = pixels
    tiled = canvas.reshape(rows, columns, height, width, channels).swapaxes(1, 2)
    tiled = tiled.reshape(rows * height, columns * width, channels)
    return Image.fromarray(tiled[..., 0] if channels == 1 else tiled)


def jpeg_xl_bytes(pixels: np.ndarray) -> int:
    """Size of a picture as lossless JPEG XL at its best effort, by imagecodecs.

    Args:
        pixels: uint8 [H, W, C], C from 1 to 4.

    Raises:
        MissingExtra: If imagecodecs is not installed.
    """
    require("imagecodecs", "JPEG XL")
    from imagecodecs import jpegxl_encode

    picture = pixels[..., 0] if pixels.shape[-1] == 1 else pixels
    return len(jpegxl_encode(picture, lossless=True, effort=9))


def encoded_bytes(picture: Image.Image, codec: str, options: dict[str, object]) -> int:
    """Size of a picture's whole file by one of Pillow's codecs.

    Raises:
        OSError: If Pillow was built without the codec.
    """
    if codec == "webp" and not features.check("webp"):
        raise OSError("Pillow must be built with WebP, but this one is not: pip install pillow")
    buffer = io.BytesIO()
    picture.save(buffer, format=codec, **options)
    return len(buffer.getvalue())


def require_codec_images(images: Tensor) -> None:
    """Raise ValueError unless images are uint8 [N, C, H, W], N >= 1, grey or RGB."""
    if images.dtype != torch.uint8:
        raise ValueError(f"images must be uint8, got {images.dtype}")
    if images.ndim != 4 or not images.numel() or images.shape[1] not in (1, 3):
        raise ValueError(
            "images must have shape [N, C, H, W] with C = 1 or 3 and none of them 0, "
            f"got {tuple(images.shape)}"
        )
