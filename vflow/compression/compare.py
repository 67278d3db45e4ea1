"""What ordinary codecs make of the same pictures, one file each."""

from __future__ import annotations

import importlib.util
import io
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, features

from vflow.codecs import jpeg_xl_bytes
from vflow.compression.codec import MAX_SIDE

CJXL = ("--distance=0", "--effort=9", "--quiet")


def codec_bytes(pictures: Iterable[NDArray[np.uint8]]) -> dict[str, int]:
    """Bytes of whole files, summed over the pictures.

    Args:
        pictures: uint8 [H, W, C], C from 1 to 4.

    Returns:
        By codec, each at its best effort: "PNG", "WebP" and, where imagecodecs or the program cjxl
        is installed, "JPEG XL".
    """
    jpeg_xl = _jpeg_xl()
    sums = {"PNG": 0, "WebP": 0, "JPEG XL": 0}
    for pixels in pictures:
        image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
        png = _save(image, "PNG", optimize=True)
        sums["PNG"] += len(png)
        if features.check("webp") and max(image.size) <= MAX_SIDE:
            sums["WebP"] += len(_save(image, "WEBP", lossless=True, quality=100, method=6))
        if jpeg_xl is not None:
            sums["JPEG XL"] += jpeg_xl(pixels, png)
    return {name: count for name, count in sums.items() if count}


def _save(image: Image.Image, name: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=name, **options)
    return buffer.getvalue()


def _jpeg_xl() -> Callable[[NDArray[np.uint8], bytes], int] | None:
    """From pixels and the same as a PNG file to the bytes of JPEG XL, where that can be had."""
    if importlib.util.find_spec("imagecodecs") is not None:
        return lambda pixels, _: jpeg_xl_bytes(pixels)
    program = shutil.which("cjxl")
    return None if program is None else lambda _, png: _bytes_by_program(program, png)


def _bytes_by_program(program: str, png: bytes) -> int:
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "picture.png"), Path(folder, "picture.jxl")
        source.write_bytes(png)
        subprocess.run([program, str(source), str(target), *CJXL], check=True, capture_output=True)
        return target.stat().st_size
