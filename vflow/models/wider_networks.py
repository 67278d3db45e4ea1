"""A trained model with wider networks, which begins where it was."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from vflow.io.fields import plain, require_int
from vflow.models.tree import ModelConfig, read_tree
from vflow.nets.trunk import Trunk
from vflow.nets.wider import widen_trunk

FILTERS = "filters"


def widen_networks(model: Any, copies: int, seed: int) -> Any:
    """See `vflow.models.ImageFlow.widen_networks`."""
    from vflow.models.classes import make_model  # which imports this file

    copies = plain(copies)
    require_int("copies", copies, 1)
    networks = {name: part for name, part in model.named_modules() if isinstance(part, Trunk)}
    if not networks:
        raise ValueError(
            f"model must have couplings with Flow++'s networks, got a {type(model).__name__}"
        )
    tree = model.config.to_tree()
    for part in _widths(tree):
        part[FILTERS] *= copies
    wide = make_model(read_tree(tree, "the wider model")).to(next(model.parameters()))
    parts = dict(wide.named_modules())
    inside = tuple(f"{name}." for name in networks)
    rest = {k: v for k, v in model.state_dict().items() if not k.startswith(inside)}
    wide.load_state_dict(rest, strict=False)
    generator = torch.Generator().manual_seed(seed)
    for name, narrow in networks.items():
        widen_trunk(parts[name], narrow, copies, generator)
    if model.initialized:
        wide.mark_initialized()
    return wide.train(model.training)


def copies_between(narrow: ModelConfig, wide: ModelConfig) -> int:
    """By how much all networks of `wide` are wider; 1 where that is no whole number for all."""
    theirs, ours = (list(_widths(config.to_tree())) for config in (narrow, wide))
    if not theirs or len(theirs) != len(ours):
        return 1
    copies = ours[0][FILTERS] // theirs[0][FILTERS]
    exact = all(b[FILTERS] == copies * a[FILTERS] for a, b in zip(theirs, ours, strict=True))
    return max(1, copies) if exact else 1


def _widths(node: Any) -> Iterator[dict[str, Any]]:
    """Every part of a config's tree that has a width."""
    if isinstance(node, dict):
        if FILTERS in node:
            yield node
        for value in node.values():
            yield from _widths(value)
