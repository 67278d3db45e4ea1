"""Optimisers by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from vflow.train.apex import ApexAdam
from vflow.train.muon import Muon
from vflow.train.optim import Adam

if TYPE_CHECKING:
    from vflow.train.config import OptimConfig


def make_optimizer(name: str, model: nn.Module, config: OptimConfig) -> Adam:
    """The optimiser called "adam", "adamw", "muon" or "apex".

    Args:
        name: Which one.
        model: Its parameters are what is updated.
        config: Peak learning rate, decay rates, weight decay.

    Raises:
        ValueError: If it is apex's and cannot be had here.
    """
    if name == "apex":
        device = next(model.parameters()).device.type
        if device != "cuda":
            raise ValueError(f"optimizer must be adam, adamw or muon on {device}, got 'apex'")
        return ApexAdam(model, config)
    if name == "muon":
        return Muon(model, config)
    return Adam(dict(model.named_parameters()), config, decoupled=name == "adamw")
