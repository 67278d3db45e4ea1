"""What the commands on a trained model share: opening it, its images, and the file to write."""

from __future__ import annotations

import dataclasses
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from vflow.data import find_source, load_images
from vflow.models import FlowPlusPlus, ImageFlow, VFlow, VFlowConfig, load_model, model_config
from vflow.models.config import require_int
from vflow.models.pretrained import WEIGHTS_NAME
from vflow.train.checkpoint import newest_checkpoint
from vflow.train.config import MAX_SEED

LOG_SECONDS = 60


def open_model(path: str | Path, device: str | torch.device = "cpu") -> ImageFlow:
    """Open an image model, in evaluation mode.

    Args:
        path: A training run's folder (its finished model, or else the averaged parameters of its
            newest intact checkpoint), a model's folder, or a repository id on the Hub.
        device: Where to load to.

    Raises:
        FileNotFoundError: If there is no such folder or repository, or a file is missing.
        ValueError: If a file is damaged or a pickle, or it is no image model.
    """
    folder = Path(path)
    is_run = not (folder / WEIGHTS_NAME).is_file()
    if is_run and (folder / "model").is_dir():
        path = folder / "model"
    elif is_run and ((folder / "checkpoints").is_dir() or (folder / "metrics.jsonl").is_file()):
        return _open_checkpoint(folder).to(device)
    elif folder.exists() and not folder.is_dir():
        raise ValueError(f"model must be a folder or a Hub repository, but {path} is a file")
    model = load_model(path, device=device)
    if not isinstance(model, ImageFlow):
        raise ValueError(f"model must be one of images, but {path} is a {type(model).__name__}")
    return model


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


def _open_checkpoint(folder: Path) -> ImageFlow:
    checkpoint = newest_checkpoint(folder / "checkpoints")
    if checkpoint is None:
        raise FileNotFoundError(
            f"{folder} must hold a finished model or a checkpoint, but the run has made none yet"
        )
    model = _make_model(checkpoint.state["fixed"])
    model.load_state_dict(checkpoint.tensors("ema"))
    model.mark_initialized()
    return model.eval()


def _make_model(fixed: dict[str, Any]) -> ImageFlow:
    """The model of a run, from what its checkpoints say it must keep."""
    config_class = type(model_config(fixed["preset"]))
    names = [field.name for field in dataclasses.fields(config_class)]
    config = config_class(**{name: fixed[f"model.{name}"] for name in names})
    return VFlow(config) if isinstance(config, VFlowConfig) else FlowPlusPlus(config)
