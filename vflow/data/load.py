"""Load a data set by its spec: the one door to all sources."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from vflow.data import arrays, cifar10, fashion_mnist, folder, imagenet, photographs
from vflow.data.image_set import ImageSet
from vflow.data.request import Request

KNOWN_SOURCES: dict[str, str] = {
    "photos": "32x32 (or SxS) crops of photographs bundled with scikit-image; nothing to download",
    "cifar10": "CIFAR-10, 32x32, the binary version; downloaded if torchvision is installed",
    "imagenet32": "downsampled ImageNet, 32x32: the official .npz files from the data folder",
    "imagenet64": "downsampled ImageNet, 64x64: the official .npz files from the data folder",
    "fashion-mnist": "Fashion-MNIST, 28x28 grey or padded to 32x32: IDX files in the data folder",
    "folder:PATH": "any folder of images, resized and centre-cropped to SxS (default 32)",
    "npy:PATH": "uint8 [N, H, W, C] from a .npy or .npz file, or train and test files in a folder",
}
"""Every spec `load_images` takes, with a line on each."""

_LOADERS: dict[str, Callable[[Request], NDArray[np.uint8]]] = {
    "photos": photographs.load,
    "cifar10": cifar10.load,
    "imagenet32": imagenet.load,
    "imagenet64": imagenet.load,
    "fashion-mnist": fashion_mnist.load,
    "folder": folder.load,
    "npy": arrays.load,
}


def load_images(
    spec: str,
    split: str,
    *,
    image_size: int | None = None,
    root: str | Path | None = None,
) -> ImageSet:
    """Load one split of a data set into memory.

    Args:
        spec: A data set's name, or "folder:PATH" or "npy:PATH"; see `KNOWN_SOURCES`.
        split: "train" or "test".
        image_size: Height and width in pixels. None is the source's own (32 for photos and
            folders). Sources of a fixed size take no other.
        root: The folder of downloaded data sets, each in a subfolder of its name or directly
            there. None is the environment variable VFLOW_DATA, or else ~/.cache/vflow.

    Returns:
        The images, uint8 [N, C, H, W].

    Raises:
        FileNotFoundError: If a file or folder is missing; says what belongs where.
        ValueError: If an argument is out of range or a file is not what it should be.
    """
    if split not in ("train", "test"):
        raise ValueError(f"split must be 'train' or 'test', got {split!r}")
    if image_size is not None and (type(image_size) is not int or image_size < 1):
        raise ValueError(f"image_size must be a positive integer, got {image_size!r}")
    name, path = _parse(spec)
    if root is None:
        root = os.environ.get("VFLOW_DATA") or "~/.cache/vflow"
    request = Request(
        spec=spec,
        path=Path(path).expanduser(),
        split=split,
        image_size=image_size,
        root=Path(root).expanduser(),
    )
    # Writable too, so that no tensor is a window on a mapped file.
    images = np.require(_LOADERS[name](request), np.uint8, ["C", "W"])
    return ImageSet(torch.from_numpy(images), name=spec, split=split)


def _parse(spec: str) -> tuple[str, str]:
    """Split a spec into a loader's name and its path ("" without one)."""
    if not isinstance(spec, str):
        raise ValueError(f"data must be the name of a data set, got {spec!r}")
    name, colon, path = spec.partition(":")
    if name not in _LOADERS:
        close = difflib.get_close_matches(name, _LOADERS, n=1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        raise ValueError(f"data must be one of {', '.join(KNOWN_SOURCES)}, got {spec!r}{hint}")
    takes_path = f"{name}:PATH" in KNOWN_SOURCES
    if takes_path and not path:
        raise ValueError(f"data must name a path, as in {name}:PATH, got {spec!r}")
    if colon and not takes_path:
        raise ValueError(f"data must be {name} alone, without a path, got {spec!r}")
    return name, path
