"""Data-dependent initialisation: every layer set up on the first input that reaches it.

Whether a model still waits for it is judged by the values that it would set. A flag beside them
would not follow the values into an average, a copy or a partial load.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from vflow.densities.modes import evaluating
from vflow.runtime.distributed import broadcast


@torch.no_grad()
def data_dependent_init(model: nn.Module, run: Callable[[], Any]) -> None:
    """Run `run` once, initialising each layer of `model` that has a `data_init` on its way.

    `data_init` gets the arguments of the layer's first call, before the layer's own forward, so
    that every layer sees the outputs of already initialised ones (Salimans & Kingma, 2016).
    Layers that `run` does not reach keep their values.
    """
    handles: dict[nn.Module, torch.utils.hooks.RemovableHandle] = {}

    def initialize(module: nn.Module, args: tuple[Any, ...]) -> None:
        handles[module].remove()
        module.data_init(*args)  # type: ignore[operator]

    for module in model.modules():
        if hasattr(module, "data_init"):
            handles[module] = module.register_forward_pre_hook(initialize)
    try:
        run()
    finally:
        for handle in handles.values():
            handle.remove()


def initialize_together(
    model: nn.Module, run: Callable[[], Any], too_few: str | None, synchronize: bool
) -> None:
    """`data_dependent_init` with dropout off, the same in every process of the default group.

    The first process runs it, on its own data; the others take its parameters.

    Args:
        model: What is initialised.
        run: The forward pass on this process's data.
        too_few: What is wrong with their number, if anything.
        synchronize: Whether the other processes take part; each has to call this, then.

    Raises:
        ValueError: If the data are too few, the first process has failed, or the parameters are
            sharded.
    """
    _require_whole(model)
    ranks = _world_size() if synchronize else 1
    error: Exception | None = None
    if ranks == 1 or dist.get_rank() == 0:
        try:
            if too_few is not None:
                raise ValueError(too_few)
            if not as_made(model):
                warnings.warn(
                    "initialize overwrites parameters that were initialised, trained or loaded",
                    stacklevel=3,
                )
            with evaluating(model):
                data_dependent_init(model, run)
        except Exception as caught:
            error = caught
    if ranks > 1:
        _take_from_first(model, failed=error is not None)
    if error is not None:
        raise error


def as_made(model: nn.Module) -> bool:
    """Whether every value that initialisation would set is still the constructor's.

    It waits for the device: not for use in every step.
    """
    layers = _layers_as_made(model)
    return all(layers)


def warn_if_half_made(model: nn.Module) -> None:
    """Warn where some layers hold what their constructor gave them, and others do not."""
    layers = _layers_as_made(model)
    if any(layers) and not all(layers):
        warnings.warn(
            f"{sum(layers)} of {len(layers)} layers hold the values that they were made with, the "
            "others do not: the model is taken for an initialised one; initialize(images) sets all",
            stacklevel=2,
        )


@torch.no_grad()
def _layers_as_made(model: nn.Module) -> list[bool]:
    found = [layer.as_made() for layer in model.modules() if hasattr(layer, "as_made")]  # type: ignore[operator]
    on = {tensor.device for tensor in found}
    if any(device.type == "meta" for device in on):
        return [True] * len(found)
    if len(on) == 1:  # one wait for the device, not one a layer
        return [bool(value) for value in torch.stack(found).tolist()]
    return [bool(tensor) for tensor in found]


def _world_size() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


@torch.no_grad()
def _take_from_first(model: nn.Module, failed: bool) -> None:
    device = next(model.parameters()).device
    failure = torch.tensor([float(failed)], device=device)
    broadcast(failure)
    if failure.item():
        if failed:
            return  # it has an error of its own to raise
        raise ValueError("the model must be initialised by the process of rank 0, which failed")
    for parameter in model.parameters():
        values = parameter.detach().contiguous()
        broadcast(values)
        parameter.copy_(values)


def _require_whole(model: nn.Module) -> None:
    """Raise ValueError if what initialisation sets would not stay, or not be the whole."""
    why = None
    for module in model.modules():
        if getattr(module, "_is_replica", False):
            why = "a replica of DataParallel"
        elif getattr(module, "_is_fsdp_managed_module", False) or hasattr(module, "unshard"):
            why = "sharded by FSDP"
    for parameter in model.parameters():
        if hasattr(parameter, "full_tensor"):
            why = "sharded as DTensors"
    if why is not None:
        raise ValueError(
            "a model must be initialised before it is wrapped, with initialize(images), but its "
            f"parameters come from no data and it is {why}"
        )


def a_weight(model: nn.Module) -> Tensor:
    """A weight of a layer with a `data_init`, for the model's type and device.

    A replica that nn.DataParallel makes has no `parameters()`, but all their names.
    """
    layer: Any = next(module for module in model.modules() if hasattr(module, "data_init"))
    weight: Tensor = layer.weight
    return weight
