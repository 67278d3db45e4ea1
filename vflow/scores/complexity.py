"""How simple an image is in itself: the length of its code by an ordinary lossless codec."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from vflow.codecs import SETTINGS, encoded_bytes, jpeg_xl_bytes, require_codec_images
from vflow.runtime.extras import require

CODECS = ("png", "webp", "jxl")


def code_bits(images: Tensor, codec: str) -> NDArray[np.float64]:
    """Bits a data dimension of each image, as a file of its own by a codec at its best effort.

    The file's header counts, about 0.2 bits/dim of a 32x32 RGB image: the same for all, so that
    no order changes by it.

    Args:
        images: uint8 [N, C, H, W], C = 1 (grey) or 3 (RGB).
        codec: "png", "webp" or "jxl" (JPEG XL, by imagecodecs: pip install 'vflow[codecs]').

    Returns:
        [N], bits/dim.

    Raises:
        ValueError: If the images are of another type or shape, or there is no such codec.
        OSError: If Pillow was built without the codec.
        MissingExtra: If imagecodecs, which jxl needs, is not installed.
    """
    if codec not in CODECS:
        raise ValueError(f"codec must be one of {', '.join(CODECS)}, got {codec!r}")
    require_codec_images(images)
    encode = _jxl_bytes() if codec == "jxl" else _pillow_bytes(codec)
    pixels = images.permute(0, 2, 3, 1).cpu().numpy()
    return np.array([8 * encode(image) / image.size for image in pixels], dtype=np.float64)


def _pillow_bytes(codec: str) -> Callable[[NDArray[np.uint8]], int]:
    from PIL import Image

    def encode(image: NDArray[np.uint8]) -> int:
        grey = image.shape[-1] == 1
        picture = Image.fromarray(image[..., 0] if grey else image)
        return encoded_bytes(picture, codec, SETTINGS[codec])

    return encode


def _jxl_bytes() -> Callable[[NDArray[np.uint8]], int]:
    require("imagecodecs", "codec jxl")
    return jpeg_xl_bytes
