"""What ordinary codecs make of the same pictures, one file each."""

from __future__ import annotations

import functools
import importlib.util
import io
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, features

from vflow.codecs import jpeg_xl_bytes
from vflow.compression.codec import MAX_SIDE

CJXL = ("--distance=0", "--effort=9", "--quiet")


@dataclass
class Measured:
    """What a codec's files take together, and how long it took to make them."""

    bytes: int = 0
    seconds: float = 0.0

    def add(self, encode: Callable[[], int]) -> None:
        """Encode a picture, by a function that gives the bytes."""
        began = time.perf_counter()
        self.bytes += encode()
        self.seconds += time.perf_counter() - began


def measure_codecs(pictures: Iterable[NDArray[np.uint8]]) -> dict[str, Measured]:
    """Bytes of whole files and seconds of encoding, summed over the pictures.

    Args:
        pictures: uint8 [H, W, C], C from 1 to 4.

    Returns:
        By codec, each at its best effort: "PNG", "WebP" and, where imagecodecs or the program cjxl
        is installed, "JPEG XL".
    """
    jpeg_xl = _jpeg_xl()
    png, webp, jxl = Measured(), Measured(), Measured()
    for pixels in pictures:
        image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
        png.add(functools.partial(_size, image, "PNG", optimize=True))
        if features.check("webp") and max(image.size) <= MAX_SIDE:
            options = {"lossless": True, "quality": 100, "method": 6}
            webp.add(functools.partial(_size, image, "WEBP", **options))
        if jpeg_xl is not None:
            jxl.add(functools.partial(jpeg_xl, pixels))
    found = {"PNG": png, "WebP": webp, "JPEG XL": jxl}
    return {name: measured for name, measured in found.items() if measured.bytes}


def _size(image: Image.Image, name: str, **options: object) -> int:
    return len(_save(image, name, **options))


def _save(image: Image.Image, name: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=name, **options)
    return buffer.getvalue()


def _jpeg_xl() -> Callable[[NDArray[np.uint8]], int] | None:
    """From pixels to the bytes of JPEG XL, where that can be had."""
    if importlib.util.find_spec("imagecodecs") is not None:
        return jpeg_xl_bytes
    program = shutil.which("cjxl")
    return None if program is None else functools.partial(_bytes_by_program, program)


def _bytes_by_program(program: str, pixels: NDArray[np.uint8]) -> int:
    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "picture.png"), Path(folder, "picture.jxl")
        source.write_bytes(_save(image, "PNG", compress_level=1))
        subprocess.run([program, str(source), str(target), *CJXL], check=True, capture_output=True)
        return target.stat().st_size
