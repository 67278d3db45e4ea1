"""A trained model with wider networks, which begins where it was."""

from __future__ import annotations

from typing import Any

import torch

from vflow.io.fields import plain, require_int
from vflow.models.tree import read_tree
from vflow.nets.trunk import Trunk
from vflow.nets.wider import widen_trunk

FILTERS = "filters"


def widen_networks(model: Any, copies: int, seed: int) -> Any:
    """See `vflow.models.ImageFlow.widen_networks`."""
    from vflow.models.classes import make_model  # which imports this file

    copies = plain(copies)
    require_int("copies", copies, 1)
    networks = {name: part for name, part in model.named_modules() if isinstance(part, Trunk)}
    tree = model.config.to_tree()
    if not networks or _multiply(tree, copies) == 0:
        raise ValueError(
            f"model must have couplings with Flow++'s networks, got a {type(model).__name__}"
        )
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


def _multiply(node: Any, copies: int) -> int:
    """Multiply every width in a config's tree; tells of how many."""
    if not isinstance(node, dict):
        return 0
    found = 0
    for key, value in node.items():
        if key == FILTERS:
            node[key], found = copies * value, found + 1
        else:
            found += _multiply(value, copies)
    return found
