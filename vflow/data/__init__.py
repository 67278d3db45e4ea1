"""Data sets as one uint8 tensor in memory, and the order in which training visits them."""

from __future__ import annotations

from vflow.data.batch_order import BatchOrder
from vflow.data.digest import images_digest
from vflow.data.image_set import ImageSet
from vflow.data.load import KNOWN_SOURCES, load_images

__all__ = ["KNOWN_SOURCES", "BatchOrder", "ImageSet", "images_digest", "load_images"]
