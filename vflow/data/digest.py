"""What data are, whatever path they were read by: a digest of the images themselves."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

WHOLE_BYTES = 1 << 30
"""Up to so many bytes every image is read; that takes a second or two."""
SAMPLED_IMAGES = 4096
"""Of more bytes, about so many images are read."""
_CHUNK_BYTES = 1 << 24


def images_digest(images: Tensor) -> str:
    """A digest of images, their shape and their order.

    It goes by the pixels as [N, C, H, W], however they lie in memory, and reads a memory-mapped
    file in parts. Above `WHOLE_BYTES` it is that of evenly spaced images, the first and the last
    among them, and says so: a change of no image that is read goes unnoticed then.

    Args:
        images: uint8 [N, C, H, W], on any device, strided as it may be.

    Returns:
        "sha256:HEX", or "sha256-of-COUNT:HEX" where COUNT of the images were read.

    Raises:
        ValueError: If `images` is not such a tensor.
    """
    if images.dtype != torch.uint8 or images.ndim != 4:
        raise ValueError(
            f"images must be uint8 [N, C, H, W], got {images.dtype} {tuple(images.shape)}"
        )
    count, size = len(images), images[:1].numel()
    digest = hashlib.sha256(repr(tuple(images.shape)).encode())
    label = "sha256"
    rows: Tensor | None = None
    if images.numel() > WHOLE_BYTES:
        read = min(count, SAMPLED_IMAGES, max(2, WHOLE_BYTES // size))
        if read < count:
            rows = torch.arange(read) * (count - 1) // (read - 1)
            label = f"sha256-of-{read}"
    total = count if rows is None else len(rows)
    step = max(1, _CHUNK_BYTES // max(1, size))
    for start in range(0, total, step):
        part = slice(start, start + step)
        chosen = images[part] if rows is None else images[rows[part].to(images.device)]
        digest.update(chosen.cpu().contiguous().numpy().data)
    return f"{label}:{digest.hexdigest()}"
