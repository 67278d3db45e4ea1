"""What goes beyond a first derivative: torch.func, forward mode, gradients of gradients.

The implementations take plain tensors and have one gradient each. Where PyTorch asks for more, an
operation runs as its composition (`vflow.ops.reference.composition`) instead, unless a backend of
kernels was asked for by name, which refuses and says who can.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._C import _functorch
from torch.autograd import forward_ad

_depth: Callable[[], int] = _functorch.get_dynamic_layer_stack_depth


def within_transform() -> bool:
    """Whether a transform of torch.func is at work."""
    return _depth() > 0


def transformed(tensors: Sequence[Any]) -> bool:
    """Whether torch.func or forward mode is at work on any of the tensors."""
    if _depth() > 0:
        # While it is traced, nobody can tell a wrapped tensor. The Function of eager mode serves no
        # gradient from outside of a transform either.
        return torch.compiler.is_compiling() or any(
            isinstance(t, Tensor) and (_functorch.is_functorch_wrapped_tensor(t) or t.requires_grad)
            for t in tensors
        )
    if forward_ad._current_level >= 0:
        return any(forward_ad.unpack_dual(t).tangent is not None for t in tensors)
    return False


def batched(grads: Sequence[Any]) -> bool:
    """Whether gradients are transformed, or many at once (`is_grads_batched`)."""
    return transformed(grads) or any(
        isinstance(grad, Tensor) and _functorch.is_legacy_batchedtensor(grad) for grad in grads
    )


def require_composition(operation: str, name: str | None) -> None:
    """Raise ValueError if an operation on the named backend may not run as its composition."""
    if name not in (None, "reference"):
        raise ValueError(
            f"backend '{name}' cannot run {operation} under torch.func or in forward mode: "
            f"use vflow.ops.use_backend('reference')"
        )


def require_autograd(operation: str, tensors: Sequence[Any]) -> None:
    """Raise ValueError under torch.func or forward mode, for a gradient that is implicit."""
    if transformed(tensors):
        raise ValueError(
            f"{operation} must be differentiated by torch.autograd: its gradient is implicit, and "
            "torch.func and forward mode have no part in it"
        )


def gradients_of(
    composition: Callable[..., Any],
    inputs: Sequence[Tensor],
    numbers: Sequence[Any],
    needed: Sequence[bool],
    grads: Sequence[Tensor | None],
) -> tuple[Tensor | None, ...]:
    """Gradients that can be differentiated again, and batched.

    Args:
        composition: (*inputs, *numbers) -> outputs.
        inputs: Tensors, of which each may depend on others.
        numbers: What comes after them.
        needed: For each input, whether its gradient is wanted.
        grads: Gradients of the outputs.

    Returns:
        Gradients of the inputs, None for those that nothing depends on.
    """
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        # Aliases: an input may be a function of another, whose gradient has only its own part here.
        leaves = [t.view_as(t) if n else t for t, n in zip(inputs, needed, strict=True)]
        results = composition(*leaves, *numbers)
        results = results if isinstance(results, tuple) else (results,)
        pairs = [
            (result, grad)
            for result, grad in zip(results, grads, strict=True)
            if grad is not None and result.requires_grad
        ]
        wanted = [leaf for leaf, n in zip(leaves, needed, strict=True) if n]
        found = iter(
            torch.autograd.grad(
                [result for result, _ in pairs],
                wanted,
                [grad for _, grad in pairs],
                create_graph=again,
                allow_unused=True,
            )
        )
    return tuple(next(found) if n else None for n in needed)


class Once(torch.autograd.Function):
    """Gradients that pass as they are, and refuse to be differentiated."""

    @staticmethod
    def forward(ctx: Any, operation: str, name: str, count: int, *tensors: Tensor) -> Any:
        """The first `count` of the tensors; the others are what they were computed from."""
        ctx.message = (
            f"backend '{name}' cannot differentiate {operation} twice: "
            f"use vflow.ops.use_backend('reference')"
        )
        return tuple(tensor.view_as(tensor) for tensor in tensors[:count])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        """Refuse.

        Raises:
            ValueError: Always.
        """
        raise ValueError(ctx.message)
