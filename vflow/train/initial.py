"""The weights that a run begins with, when they are another model's."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from vflow.models import ImageFlow
from vflow.models.pretrained import locate
from vflow.train.checkpoint import STATE_NAME, newest_checkpoint, open_checkpoint

SHOWN = 3


def read_weights(source: str) -> dict[str, Tensor]:
    """The averaged parameters of a run's newest checkpoint or of a checkpoint, or a model's.

    Args:
        source: A run's folder, a checkpoint's, a model's, or a repository id on the Hub.

    Raises:
        FileNotFoundError: If there is no such folder or repository, or a file is missing.
        ValueError: If a file is damaged or a pickle.
    """
    folder = Path(source).expanduser()
    if (folder / STATE_NAME).is_file():
        return open_checkpoint(folder.absolute()).tensors("ema")
    if not (folder / "model.safetensors").is_file():
        checkpoint = newest_checkpoint(folder / "checkpoints")
        if checkpoint is not None:
            return checkpoint.tensors("ema")
        if (folder / "model").is_dir():
            folder = folder / "model"
        elif folder.is_dir() and (folder / "metrics.jsonl").is_file():
            raise FileNotFoundError(
                f"init_from must be a trained model, but {folder} has no checkpoint yet"
            )
    _, path = locate(folder if folder.exists() else source)
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} must be a whole safetensors file, but is not: {error}") from error


def require_weights(model: ImageFlow, tensors: dict[str, Tensor], source: str) -> None:
    """Check that weights are such as the model has.

    Raises:
        ValueError: If names or shapes are not the model's; names the first of them. If a number is
            not finite.
    """
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    came = {name: tuple(value.shape) for name, value in tensors.items()}
    odd = [name for name in {**shapes, **came} if shapes.get(name) != came.get(name)]
    if odd:
        first = ", ".join(
            f"{name} is {came.get(name, 'missing')} there and {shapes.get(name, 'missing')} here"
            for name in odd[:SHOWN]
        )
        raise ValueError(
            "init_from must be a model of the preset's shape with the overrides given, but "
            f"{len(odd)} of the tensors of {source} differ: {first}"
        )
    for name, value in tensors.items():
        if value.is_floating_point() and not value.isfinite().all():
            raise ValueError(f"init_from must hold finite numbers, but {name} of {source} does not")


def weights_digest(tensors: dict[str, Tensor]) -> str:
    """A digest of weights, whatever file they were in."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.flatten().view(torch.uint8).numpy().data)
    return f"sha256:{digest.hexdigest()}"
