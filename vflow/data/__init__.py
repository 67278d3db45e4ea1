"""Data sets as uint8 tensors, and the order in which training visits them."""

from __future__ import annotations

from vflow.data.batch_order import BatchOrder
from vflow.data.digest import images_digest
from vflow.data.image_set import ImageSet
from vflow.data.image_size import parse_size, size_text
from vflow.data.load import images_of_shape, load_images, splits
from vflow.data.source import KNOWN_SOURCES, Source, data_help, register
from vflow.data.spec import find_source

# Each registers its data sets, in the order of the help.
from vflow.data import photographs, folder, arrays, cifar10, imagenet, fashion_mnist  # isort: skip

__all__ = [
    "KNOWN_SOURCES",
    "BatchOrder",
    "ImageSet",
    "Source",
    "arrays",
    "cifar10",
    "data_help",
    "fashion_mnist",
    "find_source",
    "folder",
    "imagenet",
    "images_digest",
    "images_of_shape",
    "load_images",
    "parse_size",
    "photographs",
    "register",
    "size_text",
    "splits",
]
