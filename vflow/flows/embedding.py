"""A flow of few channels within a flow of more (VFlow, Chen et al., 2020, Theorem 1, Appendix A).

Every layer of D channels has a twin of D + Dz channels that treats the D as before and leaves the
others alone. So `wide.embed(narrow, places)` goes through the layers: each sets its parameters, and
tells the next where the D channels now stand among its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Places:
    """Where a narrow tensor's channels are among a wide one's."""

    channels: tuple[int, ...]
    """The wide channel of each narrow one."""
    total: int
    """Channels of the wide tensor."""

    @property
    def others(self) -> tuple[int, ...]:
        """The wide channels that are none of the narrow tensor's."""
        return tuple(sorted(set(range(self.total)) - set(self.channels)))


class CannotEmbed(ValueError):
    """A layer cannot leave the extra channels alone."""

    def at(self, index: int) -> CannotEmbed:
        """The same error of the layer at that place."""
        path, _, reason = str(self).rpartition(": ")
        inner = path.removeprefix("layer ")
        return CannotEmbed(f"layer {index}{'.' + inner if inner else ''}: {reason}")


@torch.no_grad()
def embed_inputs(wide: Tensor, narrow: Tensor, places: Places) -> None:
    """Weights [out, in, ...]: those of the extra inputs are zero."""
    wide.zero_()
    wide[:, list(places.channels)] = narrow


@torch.no_grad()
def embed_outputs(wide: Tensor, narrow: Tensor, places: Places, resting: Tensor | None) -> None:
    """Weights or biases whose rows are elements x parameters, element-major.

    Args:
        wide: [total * P, ...], P numbers for each element.
        narrow: [len(places.channels) * P, ...].
        places: Of the elements.
        resting: What the extra elements' P numbers are, for a bias; None for a weight, zero.
    """
    rows = wide.unflatten(0, (places.total, -1))
    rows.zero_()
    if resting is not None:
        rows[:] = resting.to(rows)
    rows[list(places.channels)] = narrow.unflatten(0, (len(places.channels), -1))
