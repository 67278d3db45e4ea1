"""Computing a part of a network again in the backward pass, instead of keeping its insides."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeAlias, cast, get_args

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from vflow.io.fields import require_choice
from vflow.ops import backend
from vflow.ops.transforms import within_transform

Recompute: TypeAlias = Literal["none", "block", "coupling"]
RECOMPUTE: tuple[Recompute, ...] = get_args(Recompute)
"""What is computed again: nothing, each gated block, or each coupling as a whole."""


def take_recompute(value: str | bool) -> Recompute:
    """One of `RECOMPUTE`; False and True are "none" and "block".

    Raises:
        ValueError: If it is neither; says what came.
    """
    if isinstance(value, bool):
        return RECOMPUTE[value]
    require_choice("recompute", value, RECOMPUTE)
    return cast(Recompute, value)


def may_recompute(module: nn.Module) -> bool:
    """Whether a gradient of what `module` computes now can be had by computing it again."""
    # torch.func has no hooks on what is saved, by which PyTorch recomputes.
    if not torch.is_grad_enabled() or within_transform():
        return False
    # What is computed in evaluation mode may find dropout at work by the time of its gradient.
    return module.training or not getattr(module, "dropout", 0.0)


def computed_again(function: Callable[..., Any], *args: Any, draws: bool) -> Any:
    """`function(*args)`, of which only the arguments are kept for the backward pass.

    Args:
        function: What is computed twice, by the same backend both times.
        args: Its arguments.
        draws: Whether it draws random numbers (dropout), which have to be the same again.
    """
    named = backend.named()

    def by_the_same_backend(*given: Any) -> Any:
        with backend.as_named(named):
            return function(*given)

    # A compiled graph holds the backend it was traced under.
    run = function if torch.compiler.is_compiling() else by_the_same_backend
    return checkpoint(run, *args, use_reentrant=False, preserve_rng_state=draws)
