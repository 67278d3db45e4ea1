"""Data-dependent initialisation: every layer set up on the first input that reaches it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


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


def a_weight(model: nn.Module) -> Tensor:
    """A weight of a layer with a `data_init`, for the model's type and device.

    A replica that nn.DataParallel makes has no `parameters()`, but all their names.
    """
    return next(module.weight for module in model.modules() if hasattr(module, "data_init"))
