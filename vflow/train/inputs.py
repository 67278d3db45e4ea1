"""The images of a run, and whether they and the model fit together."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vflow.data import find_source, load_images, splits

if TYPE_CHECKING:
    from vflow.train.config import TrainConfig

DEVICE_SHARE = 0.25
"""Share of a GPU's free memory that the images may take."""
CHUNK = 4096
"""Images copied to a GPU at once."""


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """Training and test images, and how the preset has to change to take them."""

    train: Tensor  # uint8 [N, C, H, W]
    test: Tensor | None  # uint8 [M, C, H, W]; None where nothing is evaluated
    shape_overrides: dict[str, int | tuple[int, int]] = field(default_factory=dict)
    """in_channels and image_size of the images, where they are not the preset's."""


def load_inputs(config: TrainConfig, device: torch.device) -> Inputs:
    """Load the images, those of training to the device where they fit.

    Raises:
        OSError: If they cannot be read.
        ValueError: If there are too few, or none that the model can take.
    """
    source = find_source(config.data)
    size = config.image_size or config.model.image_size
    if size is None and source.sizes is None:
        size = config.model_config().image_size
    channels = config.model.in_channels
    if channels not in source.channels:
        channels = None  # what the data have is compared with the model below

    def load(split: str) -> Tensor:
        return load_images(
            config.data, split, image_size=size, channels=channels, root=config.data_root
        ).images

    train, test = load("train"), None
    if config.eval_every:
        available = splits(config.data, root=config.data_root)
        if "test" not in available:
            raise ValueError(
                f"data must have test images, but {config.data} has {' and '.join(available)} "
                "alone: eval_every 0 trains without an evaluation"
            )
        test = load("test")
        if train.shape[1:] != test.shape[1:]:
            raise ValueError(
                "data must have training and test images of one shape, got "
                f"{shape_text(train)} and {shape_text(test)}"
            )
    if len(train) < config.batch_size:
        raise ValueError(
            f"batch_size must be at most the {len(train)} training images, got {config.batch_size}"
        )
    overrides = _shape_overrides(config, train)
    config.model_config(**overrides)  # a size the model cannot take
    return Inputs(train=_place(train, device), test=test, shape_overrides=overrides)


def shape_text(images: Tensor) -> str:
    """The shape of an image, as CxHxW."""
    return "x".join(map(str, images.shape[1:]))


def _shape_overrides(config: TrainConfig, images: Tensor) -> dict[str, int | tuple[int, int]]:
    channels, height, width = images.shape[1:]
    wanted = config.model_config()
    overrides: dict[str, int | tuple[int, int]] = {}
    if channels != wanted.in_channels:
        if config.model.in_channels is not None:
            raise ValueError(
                f"model.in_channels must be that of the data, {channels}, got {wanted.in_channels}"
            )
        overrides["in_channels"] = channels
    if (height, width) != wanted.image_size:
        if config.model.image_size is not None:
            raise ValueError(
                f"model.image_size must be that of the data, {height}x{width}, "
                f"got {config.model.image_size}"
            )
        overrides["image_size"] = (height, width)
    return overrides


def _place(images: Tensor, device: torch.device) -> Tensor:
    """The images on the device if they are few enough for it, else where they are."""
    if device.type != "cuda":
        return images
    free, _ = torch.cuda.mem_get_info(device)
    if images.numel() > DEVICE_SHARE * free:
        return images
    placed = torch.empty(images.shape, dtype=images.dtype, device=device)
    for start in range(0, len(images), CHUNK):  # a mapped file does not come into memory whole
        placed[start : start + CHUNK] = images[start : start + CHUNK].contiguous()
    return placed
