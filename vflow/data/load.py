"""Load a data set by its spec: the one door to all sources."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vflow.data.image_set import ImageSet
from vflow.data.mapped import is_mapped
from vflow.data.source import Request, Source
from vflow.data.spec import expand, find_source, parse_spec
from vflow.data.split_names import SPLITS


def load_images(
    spec: str,
    split: str,
    *,
    image_size: int | str | tuple[int, int] | None = None,
    channels: int | None = None,
    root: str | Path | None = None,
) -> ImageSet:
    """Load one split of a data set.

    Args:
        spec: A data set's name, or "folder:PATH" or "npy:PATH", see `KNOWN_SOURCES`; or the path
            alone of a folder, a .npy or a .npz file.
        split: "train", "val" or "test"; `splits` tells which there are.
        image_size: Height and width in pixels: 32, "32x48" or (32, 48). None is the source's own
            (32 for photos and folders). Sources of a fixed size take no other.
        channels: 1 for grey, 3 for RGB; folders give 2 (grey) and 4 (RGB) with alpha too. None is
            the source's own (3 for photos and folders).
        root: The folder of downloaded data sets, each in a subfolder of its name or directly
            there. None is the environment variable VFLOW_DATA, or else ~/.cache/vflow.

    Returns:
        The images, uint8 [N, C, H, W]: in memory, or where a .npy file holds a whole split, a view
        of that file.

    Raises:
        FileNotFoundError: If a file, folder or split is missing; says what belongs where.
        ValueError: If an argument is out of range or a file is not what it should be.
    """
    if split not in SPLITS:
        raise ValueError(f"split must be {', '.join(map(repr, SPLITS))}, got {split!r}")
    source, request = _request(spec, split, image_size, channels, root)
    if not source.takes_path:
        available = source.splits(request)
        if split not in available:
            raise request.no_split(available)
    images = source.load(request)
    mapped = is_mapped(images)
    if not mapped:
        # Writable too, so that torch shares it without a warning.
        images = np.require(images, np.uint8, ["C", "W"])
    return ImageSet(torch.from_numpy(images), name=spec, split=split, mapped=mapped)


def images_of_shape(
    spec: str, split: str, shape: tuple[int, ...], root: str | Path | None = None
) -> Tensor:
    """The images of a split as a model takes them, at its size and channels where they can be.

    Args:
        spec: As `load_images` takes it.
        split: Likewise.
        shape: The model's [C, H, W].
        root: As `load_images` takes it.

    Returns:
        uint8 [N, C, H, W], on the CPU.

    Raises:
        OSError: If they cannot be read.
        ValueError: If there is no such data or split, none are there, or they are of another shape.
    """
    channels, height, width = shape
    source = find_source(spec)
    images = load_images(
        spec,
        split,
        image_size=(height, width) if source.has_size((height, width)) else None,
        channels=channels if channels in source.channels else None,
        root=root,
    ).images
    if tuple(images.shape[1:]) != shape:
        came = "x".join(map(str, images.shape[1:]))
        raise ValueError(
            f"data must hold {channels}x{height}x{width} images like the model's, "
            f"but those of {spec} are {came}"
        )
    return images


def splits(spec: str, *, root: str | Path | None = None) -> tuple[str, ...]:
    """The splits that a data set has, of "train", "val" and "test", without loading any.

    Args:
        spec: As `load_images` takes it.
        root: Likewise.

    Raises:
        FileNotFoundError: If a folder or file is missing.
        ValueError: If the spec is none, or what is there cannot be split.
    """
    source, request = _request(spec, "train", None, None, root)
    return source.splits(request)


def _request(
    spec: str, split: str, image_size: Any, channels: Any, root: str | Path | None
) -> tuple[Source, Request]:
    source, path = parse_spec(spec)
    request = Request(
        spec=spec,
        path=path,
        split=split,
        size=source.resolve_size(spec, image_size),
        channels=source.resolve_channels(spec, channels),
        root=expand(root or os.environ.get("VFLOW_DATA") or "~/.cache/vflow"),
    )
    return source, request
