"""A whole split of a data set, as bytes."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images of one size.

    Args:
        images: uint8 [N, C, H, W], N >= 1; contiguous unless mapped.
        name: The spec the images were loaded from, such as "cifar10".
        split: "train", "val" or "test".
        mapped: Whether the images are those of a file, which come into memory when they are
            looked at, and may be strided ([N, H, W, C] in the file).

    Raises:
        ValueError: If `images` is not such a tensor.
    """

    images: Tensor  # [N, C, H, W]
    name: str
    split: str
    mapped: bool = False

    def __post_init__(self) -> None:
        images = self.images
        if images.dtype != torch.uint8:
            raise ValueError(f"images must be uint8, got {images.dtype}")
        if images.ndim != 4 or 0 in images.shape:
            raise ValueError(
                f"images must have a non-empty shape [N, C, H, W], got {tuple(images.shape)}"
            )
        if not self.mapped and not images.is_contiguous():
            raise ValueError("images must be contiguous, got strided ones")

    def __len__(self) -> int:
        return len(self.images)

    def to(self, device: str | torch.device) -> ImageSet:
        """The same set with its images on `device`, contiguous in its memory."""
        device = torch.device(device)
        if device == self.images.device:
            return self
        images = self.images.to(device, memory_format=torch.contiguous_format)
        return dataclasses.replace(self, images=images, mapped=False)
