"""The weights that a run begins with, when they are another model's."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from vflow.models import ImageFlow
from vflow.models.loading import find_model
from vflow.models.tree import ModelConfig
from vflow.models.wider_networks import copies_between

SHOWN = 3


def read_weights(source: str, wanted: ModelConfig, tell: bool = True) -> dict[str, Tensor]:
    """The parameters that `vflow.load_model` would load: of a run, the newest averaged ones.

    A model whose networks are narrower is widened (`ImageFlow.widen_networks`).

    Args:
        source: A run's folder, a checkpoint's, a model's, or a repository id on the Hub.
        wanted: The config of the model that is to begin with them.
        tell: Whether to print that a model is widened.

    Raises:
        FileNotFoundError: If there is no such folder or repository, or a file is missing.
        ValueError: If a file is damaged or a pickle.
    """
    model = find_model(source).load()
    copies = copies_between(model.config, wanted)
    if copies > 1:
        if tell:
            print(f"the networks of {source} are widened {copies} times, to give what they gave")
        model = model.widen_networks(copies)
    return dict(model.state_dict())


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
