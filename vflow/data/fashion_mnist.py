"""Fashion-MNIST from its IDX files."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vflow.data.source import Request, Source, register

_FILES = {"train": "train-images-idx3-ubyte", "test": "t10k-images-idx3-ubyte"}
_MAGIC = 0x00000803  # unsigned bytes in three dimensions
_SIZE = 28


def load(request: Request) -> NDArray[np.uint8]:
    """Fashion-MNIST (Xiao et al., 2017): 60,000 training and 10,000 test images, grey.

    Looked for in root/fashion-mnist and in root: train-images-idx3-ubyte and
    t10k-images-idx3-ubyte, each with or without .gz. MNIST itself has files of the same form.

    Returns:
        uint8 [N, 1, 28, 28], or [N, 1, 32, 32] with a border of zeros for image_size=32.
    """
    assert request.size is not None
    name = _FILES[request.split]
    images = read_idx(request.require(name, f"{name}.gz"))
    if images.shape[1:] != (_SIZE, _SIZE):
        raise ValueError(f"{name} must hold {_SIZE}x{_SIZE} images, got {images.shape[1:]}")
    border = (request.size[0] - _SIZE) // 2
    return np.pad(images, ((0, 0), (border, border), (border, border)))[:, None]


def read_idx(path: Path) -> NDArray[np.uint8]:
    """Read an IDX file of images, gzipped or not, as uint8 [N, H, W]."""
    content = path.read_bytes()
    if path.suffix == ".gz":
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"{path} must be a whole gzip file: {error}") from error
    header = struct.Struct(">4I")
    if len(content) < header.size:
        raise ValueError(f"{path} must be an IDX file, got only {len(content)} bytes")
    magic, *shape = header.unpack_from(content)
    if magic != _MAGIC:
        raise ValueError(
            f"{path} must be an IDX file of images (0x{_MAGIC:08x}), got 0x{magic:08x}"
        )
    expected = header.size + math.prod(shape)
    if len(content) != expected or 0 in shape:
        raise ValueError(
            f"{path} must hold {shape} images in {expected} bytes, got {len(content)} bytes"
        )
    return np.frombuffer(content, np.uint8, offset=header.size).reshape(shape)


register(
    Source(
        name="fashion-mnist",
        help="Fashion-MNIST, 28x28 grey or padded to 32x32: IDX files in the data folder",
        load=load,
        sizes=((_SIZE, _SIZE), (32, 32)),
        channels=(1,),
    )
)
