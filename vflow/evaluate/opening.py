"""What the commands on a trained model share: opening it, its images, and the file to write."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from vflow.data import find_source, load_images
from vflow.loading import Source, find_model
from vflow.models import ImageFlow
from vflow.models.config import require_int
from vflow.train.config import MAX_SEED

LOG_SECONDS = 60


def open_model(
    path: str | Path | Source, device: str | torch.device = "cpu", say: bool = False
) -> ImageFlow:
    """Open an image model, in evaluation mode.

    Args:
        path: As `vflow.load_model` takes it, or what `vflow.loading.find_model` found there.
        device: Where to load to.
        say: Whether to tell on stderr which of a training run's parameters are taken.

    Raises:
        FileNotFoundError: If there is no such folder or repository, or a file is missing.
        ValueError: If a file is damaged or a pickle, or it is no image model.
    """
    source = path if isinstance(path, Source) else find_model(path)
    if say and source.run is not None:
        step = "" if source.step is None else f", of step {source.step}"
        print(f"vflow: model: {source.path}{step}", file=sys.stderr)
    model = source.load()
    if not isinstance(model, ImageFlow):
        raise ValueError(
            f"model must be one of images, but {source.path} is a {type(model).__name__}"
        )
    return model.to(device)


def open_images(model: ImageFlow, data: str, split: str, root: Path | None = None) -> torch.Tensor:
    """The images of a split, in the model's size and channels where they can be had so.

    Returns:
        uint8 [N, C, H, W], on the CPU.

    Raises:
        OSError: If they cannot be read.
        ValueError: If there is no such data or split, none are there, or the size is not the
            model's.
    """
    channels, height, width = model.data_shape
    source = find_source(data)
    images = load_images(
        data,
        split,
        image_size=(height, width) if source.has_size((height, width)) else None,
        channels=channels if channels in source.channels else None,
        root=root,
    ).images
    if tuple(images.shape[1:]) != model.data_shape:
        came = "x".join(map(str, images.shape[1:]))
        raise ValueError(
            f"data must hold {channels}x{height}x{width} images like the model's, "
            f"but those of {data} are {came}"
        )
    return images


def progress_bar(total: int, unit: str, initial: int = 0, show: bool = True) -> tqdm[Any]:
    """A bar on a terminal; elsewhere, such as in a log, a line a minute."""
    every = 0.1 if sys.stderr.isatty() else LOG_SECONDS
    return tqdm(
        total=total,
        initial=initial,
        unit=f" {unit}",
        mininterval=every,
        delay=0 if sys.stderr.isatty() else LOG_SECONDS,
        disable=not show,
    )


def require_output(name: str, path: Path, suffix: str) -> None:
    """Raise unless a file can be written there, before hours go into what is to be in it.

    Raises:
        ValueError: If the suffix is another.
        IsADirectoryError: If there is a folder.
        NotADirectoryError: If there is a file where its folder should be.
        PermissionError: If the folder is not writable.
    """
    if path.suffix.lower() != suffix:
        raise ValueError(f"{name} must end in {suffix}, got {path}")
    if path.is_dir():
        raise IsADirectoryError(f"{name} must be a file, but {path} is a folder")
    parent = next(folder for folder in path.absolute().parents if folder.exists())
    if not parent.is_dir():
        raise NotADirectoryError(f"{name} must be in a folder, but {parent} is a file")
    try:
        with tempfile.TemporaryFile(dir=parent):
            pass
    except OSError as error:
        raise PermissionError(
            f"{name} must be in a writable folder, but {parent} is not: {error.strerror}"
        ) from error


def require_seed(seed: Any) -> None:
    """Raise ValueError unless `seed` is an int from 0 to 2^63 - 1."""
    require_int("seed", seed, 0)
    if seed > MAX_SEED:
        raise ValueError(f"seed must be below 2^63, got {seed}")
