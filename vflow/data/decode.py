"""One image file as bytes of a given size: every kind of pixel that Pillow knows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from vflow.data.image_size import Size

# Named, because Pillow tries formats that run other programs (EPS) if one lets it.
_FORMATS = ("AVIF", "BMP", "DIB", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
"""Pillow's name of the pixels with each number of channels."""
_ANIMATED = ("AVIF", "GIF", "PNG", "TIFF", "WEBP")
_PLAIN = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX")
_MIN_IS_WHITE, _PHOTOMETRIC = 0, 262  # TIFF


def decode(path: Path, size: Size, channels: int) -> tuple[NDArray[np.uint8], bool]:
    """Read an image: turned upright, resized to cover `size`, cropped at its centre.

    Of an image of several frames or pages the first is taken. Grey of 16 bits keeps its high byte,
    as colours of 16 bits do in Pillow.

    Args:
        path: The file.
        size: Height and width to give.
        channels: A key of MODES.

    Returns:
        uint8 [channels, height, width], and whether there are more frames.

    Raises:
        ValueError: If its pixels have no known range.
        Exception: Any of UNREADABLE, for a damaged file.
    """
    height, width = size
    # By path, Pillow (13.0) maps uncompressed TIFFs, and garbles those that are to be turned.
    with open(path, "rb") as file, Image.open(file, formats=_FORMATS) as opened:
        frames = opened.format in _ANIMATED and getattr(opened, "is_animated", False)
        # Large JPEGs may decode at a fraction of their size, still four times what is wanted.
        side = 4 * max(size)
        opened.draft(None, (side, side))
        image = _to_mode(opened, ImageOps.exif_transpose(opened), MODES[channels])
    full_width, full_height = image.size
    if full_width * height >= full_height * width:  # the height decides
        scaled = (max(width, round(full_width * height / full_height)), height)
    else:
        scaled = (width, max(height, round(full_height * width / full_width)))
    image = image.resize(scaled, Image.Resampling.LANCZOS)
    left, top = (scaled[0] - width) // 2, (scaled[1] - height) // 2
    pixels = np.asarray(image.crop((left, top, left + width, top + height)))
    return pixels.reshape(height, width, channels).transpose(2, 0, 1), bool(frames)


UNREADABLE = (
    OSError,
    ValueError,
    SyntaxError,
    ArithmeticError,
    LookupError,
    TypeError,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)
"""What Pillow's decoders raise for damaged files, SyntaxError included."""


def _to_mode(opened: Image.Image, image: Image.Image, mode: str) -> Image.Image:
    if image.mode == "F":
        raise ValueError("floating-point pixels have no known range: convert it to 8 bits")
    if image.mode.startswith("I"):
        image = Image.fromarray(_grey_bytes(opened, np.asarray(image)))
    elif image.mode in ("La", "RGBa"):  # colours times alpha
        image = image.convert(image.mode.upper())
    elif image.mode not in _PLAIN:  # CMYK, YCbCr, LAB, HSV convert to RGB alone
        image = image.convert("RGB")
    if image.mode == "1":
        image = image.convert("L")
    return image.convert(mode)


def _grey_bytes(opened: Image.Image, grey: NDArray[np.generic]) -> NDArray[np.uint8]:
    """Grey of 16 or 32 bits, which Pillow's own conversion would saturate, as bytes."""
    values = grey.astype(np.int64)
    least, most = int(values.min()), int(values.max())
    # Older releases of Pillow open PNG and PPM files of 16 bits in 32.
    if opened.mode.startswith("I;16") or opened.format in ("PNG", "PPM"):
        if 0 < most < 256:
            raise ValueError(
                f"grey of 16 bits and at most {most} would be black: convert it to 8 bits"
            )
        values = values.clip(0, 65535) >> 8
        tags = getattr(opened, "tag_v2", {})
        if tags.get(_PHOTOMETRIC) == _MIN_IS_WHITE:
            values = 255 - values
    elif least < 0 or most > 255:
        raise ValueError(
            f"grey of 32 bits must be 0 to 255, got {least} to {most}: convert it to 8 bits"
        )
    return values.astype(np.uint8)
