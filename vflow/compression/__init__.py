"""Lossless compression of images with a flow: files at the model's bits/dim.

`encode` and `decode` are for image sets in memory; `ArchiveWriter` and `ArchiveReader` stream, and
take pictures of any size. docs/format.md has the format.
"""

from __future__ import annotations

import io

import torch
from torch import Tensor

from vflow.compression.pictures import Picture
from vflow.compression.reader import ArchiveReader
from vflow.compression.writer import MOST_AT_ONCE, ArchiveWriter
from vflow.models import ImageFlow
from vflow.models.checks import require_images

__all__ = ["ArchiveReader", "ArchiveWriter", "Picture", "decode", "encode"]


def encode(
    model: ImageFlow, images: Tensor, *, arithmetic: str = "exact", batch: int = MOST_AT_ONCE
) -> bytes:
    """Compress images without loss.

    Args:
        model: An image model on the CPU; dropout is off.
        images: uint8 [N, C, H, W] of the model's shape.
        arithmetic: "exact", to be decoded on every machine, or "native", on this one.
        batch: Most images at once, from 1 to 256: more are faster, and take more memory.

    Returns:
        A whole archive.

    Raises:
        ValueError: If an argument has the wrong type or shape, or the model cannot be coded with.
    """
    if not isinstance(model, ImageFlow):
        raise ValueError(f"model must be one of images, got {type(model).__name__}")
    require_images(images, model.data_shape, torch.device("cpu"))
    file = io.BytesIO()
    writer = ArchiveWriter(file, model, arithmetic=arithmetic, batch=batch)
    writer.add_images(images.permute(0, 2, 3, 1).contiguous().numpy())
    writer.close()
    return file.getvalue()


def decode(model: ImageFlow, data: bytes) -> Tensor:
    """Decompress what `encode` gave.

    Args:
        model: The model it was encoded with.
        data: The archive.

    Returns:
        uint8 [N, C, H, W].

    Raises:
        ValueError: If it is no archive of image sets, damaged, or of another model.
    """
    images = ArchiveReader(io.BytesIO(data), model).images()
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
