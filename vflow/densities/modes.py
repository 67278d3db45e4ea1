"""Evaluation mode for a while, each submodule's own mode afterwards; and gradients or none."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Dropout off within. Parts that were in evaluation mode before are so afterwards, too."""
    in_training = [module for module in model.modules() if module.training]
    for module in in_training:
        module.training = False
    try:
        yield
    finally:
        for module in in_training:
            module.training = True


def gradients_if(wanted: bool) -> torch.set_grad_enabled:
    """Gradients within if they are wanted, and not forbidden around it."""
    return torch.set_grad_enabled(wanted and torch.is_grad_enabled())
