"""A network's weights in half precision, cast at once instead of map by map.

Autocast casts each weight and each bias where it is used, and each of their gradients back: four
launches a map, more than any other kind that a step of a Flow++ has.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor, nn

from vflow.ops import backend
from vflow.ops.transforms import within_transform

WeightAndBias: TypeAlias = tuple[Tensor, Tensor]
Weights: TypeAlias = Mapping[nn.Module, WeightAndBias]
"""Weight and bias of maps, in the dtype that they compute in."""


def half_weights(layers: Iterable[Any], dtype: torch.dtype | None) -> Weights | None:
    """The weights of those layers that autocast would cast, in its dtype.

    Args:
        layers: Maps (`vflow.nets.layers`); each says by `cast_weights` what of it autocast casts.
        dtype: What autocast computes in; None for no autocast.

    Returns:
        None where each map is left to autocast: under torch.func, whose transforms know nothing of
        this function's gradient, and torch.compile, which casts at once by itself. A map whose
        hooks may change its weights just before they are used is left to autocast, too.
    """
    if dtype is None or backend.is_exact() or torch.compiler.is_compiling() or within_transform():
        return None
    taken = []
    for layer in layers:
        given = None if layer._forward_pre_hooks else layer.cast_weights()
        if given is not None and _is_cast(given[0], dtype):
            taken.append((layer, given))
    if not taken:
        return None
    flat = _Cast.apply(dtype, *(tensor for _, given in taken for tensor in given))
    pairs = zip(flat[0::2], flat[1::2], strict=True)
    return {layer: pair for (layer, _), pair in zip(taken, pairs, strict=True)}


def apply_map(layer: nn.Module, x: Tensor, weights: Weights | None) -> Tensor:
    """`layer(x)`, with the weight and bias that `weights` may have for it."""
    if weights is None or layer not in weights:
        return cast(Tensor, layer(x))
    return cast(Tensor, layer(x, weights[layer]))


def to_dtype(dtype: torch.dtype | None, *tensors: Tensor | None) -> tuple[Tensor | None, ...]:
    """What is there as autocast to `dtype` would have it; as it is if that is None."""
    return tuple(
        t if t is None or dtype is None or not _is_cast(t, dtype) else t.to(dtype) for t in tensors
    )


def _is_cast(tensor: Tensor, dtype: torch.dtype) -> bool:
    return tensor.dtype not in (dtype, torch.float64)  # which autocast leaves alone


class _Cast(torch.autograd.Function):
    """Tensors -> the same in another dtype, many in a launch on a GPU; so their gradients."""

    @staticmethod
    def forward(ctx: Any, dtype: torch.dtype, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.dtypes = [tensor.dtype for tensor in tensors]
        copies = [torch.empty_like(tensor, dtype=dtype) for tensor in tensors]
        torch._foreach_copy_(copies, tensors)
        return tuple(copies)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # gradients of gradients
            return None, *(g.to(dtype) for g, dtype in zip(grads, ctx.dtypes, strict=True))
        pairs = zip(grads, ctx.dtypes, strict=True)
        copies = [torch.empty_like(grad, dtype=dtype) for grad, dtype in pairs]
        torch._foreach_copy_(copies, grads)
        return None, *copies
