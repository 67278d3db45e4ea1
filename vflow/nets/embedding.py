"""A network of few channels within a wider one: zero columns for the extra inputs.

A network that can be widened has `embed(narrow, inputs, outputs, resting)`: it gives `narrow`'s
numbers for the elements at `outputs`, `resting` [P] for every other element, and reads nothing but
the channels at `inputs`. Both are `vflow.flows.Places`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


@torch.no_grad()
def embed_inputs(wide: Tensor, narrow: Tensor, places: Any) -> None:
    """Weights [out, in, ...]: those of the extra inputs are zero."""
    wide.zero_()
    wide[:, list(places.channels)] = narrow


@torch.no_grad()
def embed_outputs(wide: Tensor, narrow: Tensor, places: Any, resting: Tensor | None) -> None:
    """Weights or biases whose rows are elements x parameters, element-major.

    Args:
        wide: [total * P, ...], P numbers for each element.
        narrow: [len(places.channels) * P, ...].
        places: Of the elements.
        resting: What the extra elements' P numbers are, for a bias: [P], or [total, P]; None for a
            weight, zero.
    """
    rows = wide.unflatten(0, (places.total, -1))
    rows.zero_()
    if resting is not None:
        rows[:] = resting.to(rows)
    rows[list(places.channels)] = narrow.unflatten(0, (len(places.channels), -1))


@torch.no_grad()
def copy_parameters(wide: nn.Module, narrow: nn.Module, without: tuple[str, ...] = ()) -> None:
    """Copy the parameters of the same names, but for those whose names start with `without`."""
    theirs = dict(narrow.named_parameters())
    for name, parameter in wide.named_parameters():
        if not name.startswith(without or "\0"):
            parameter.copy_(theirs[name])


@torch.no_grad()
def embed_chain(
    wide: Sequence[nn.Module],
    narrow: Sequence[nn.Module],
    inputs: Any,
    outputs: Any,
    resting: Tensor,
) -> None:
    """Embed linear maps or convolutions that follow one another, of the same inner widths."""
    last = len(wide) - 1
    for index, (new, old) in enumerate(zip(wide, narrow, strict=True)):
        weight: Any = new.weight
        bias: Any = new.bias
        source: Any = old.weight
        if index == 0 and index == last:
            middle = torch.zeros((len(source), *weight.shape[1:])).to(weight)
            embed_inputs(middle, source, inputs)
            embed_outputs(weight, middle, outputs, None)
        elif index == 0:
            embed_inputs(weight, source, inputs)
        elif index == last:
            embed_outputs(weight, source, outputs, None)
        else:
            weight.copy_(source)
        if index == last:
            embed_outputs(bias, old.bias, outputs, resting)  # type: ignore[arg-type]
        else:
            bias.copy_(old.bias)
