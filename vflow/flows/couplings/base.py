"""What a coupling is, and how a new one is registered."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from vflow.flows.base import Flow, Halves
from vflow.flows.embedding import CannotEmbed, Places
from vflow.io.kinds import Kinds
from vflow.nets.recompute import computed_again, may_recompute
from vflow.ops.coder import Coder, to_float

COUPLINGS = Kinds("coupling")
"""The couplings by name; each file of this folder registers its own."""


class CouplingSpec(Protocol):
    """The options of a coupling kind, a frozen dataclass registered with `COUPLINGS`."""

    @classmethod
    def tiny(cls) -> CouplingSpec:
        """At its smallest, for tests."""

    @property
    def parameters(self) -> int:
        """Numbers P that the network gives for each element of the second half."""

    def build(self, net: nn.Module) -> Coupling:
        """The coupling of a network whose output is [..., C2 * P]."""


class Coupling(Flow):
    """The first half, unchanged, decides how each element of the second half is transformed.

    A subclass defines `transform` and its `untransform`, maps of elements by their parameters.
    With `recompute` only the halves (and the context) are kept for the backward pass, which
    computes the network and its parameters again.

    Args:
        net: Network [..., C1] (and context) -> [..., C2 * P], element-major: each element's P
            parameters side by side.
        parameters: Number P.
    """

    def __init__(self, net: nn.Module, parameters: int) -> None:
        super().__init__()
        self.net = net
        self.parameters_per_element = parameters
        self.recompute = False

    def transform(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        """x [B, ..., C2], params [B, ..., C2, P] -> y like x, logdet [B]."""
        raise NotImplementedError

    def untransform(self, y: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        """y [B, ..., C2], params [B, ..., C2, P] -> x like y, logdet [B]."""
        raise NotImplementedError

    rests_at = 0.0
    """Logarithm of what an element at rest is multiplied by, where a coupling cannot but scale."""

    def resting(self) -> Tensor:
        """The parameters [P] that leave an element alone, or scale it by exp(`rests_at`).

        Raises:
            CannotEmbed: If there are none; says why.
        """
        raise CannotEmbed(f"{type(self).__name__} is the identity for no parameters")

    def forward(self, x: Halves, context: Tensor | None = None) -> tuple[Halves, Tensor]:
        """Transform the second half."""
        y2, logdet = self._mapped(self.transform, x, context)
        return (x[0], y2), logdet

    def inverse(self, y: Halves, context: Tensor | None = None) -> tuple[Halves, Tensor]:
        """Transform the second half back."""
        x2, logdet = self._mapped(self.untransform, y, context)
        return (y[0], x2), logdet

    def _mapped(
        self,
        elementwise: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
        halves: Halves,
        context: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        def mapped(first: Tensor, second: Tensor, *given: Tensor | None) -> tuple[Tensor, Tensor]:
            return elementwise(second, self._params(first, *given))

        if not self.recompute or not may_recompute(self.net):
            return mapped(*halves, context)
        draw_seeds = getattr(self.net, "draw_seeds", None)
        if draw_seeds is None:  # a network of somebody's own, which may draw what it likes
            return computed_again(mapped, *halves, context, draws=True)
        seeds = draw_seeds(halves[0].device)
        return computed_again(mapped, *halves, context, seeds, draws=False)

    def code(self, x: Halves, coder: Coder, context: Tensor | None = None) -> Halves:
        """`forward` of whole numbers."""
        return x[0], self.code_elements(x[1], self._params_of_numbers(x[0], context), coder)

    def code_inverse(self, y: Halves, coder: Coder, context: Tensor | None = None) -> Halves:
        """`inverse` of whole numbers."""
        return y[0], self.uncode_elements(y[1], self._params_of_numbers(y[0], context), coder)

    def code_elements(self, x: Tensor, params: Tensor, coder: Coder) -> Tensor:
        """`transform` of whole numbers x [B, ..., C2], int64 over 2^32; params are float.

        Raises:
            ValueError: If the coupling has no coding rule.
        """
        raise ValueError(f"{type(self).__name__} has no coding rule: it cannot compress")

    def uncode_elements(self, y: Tensor, params: Tensor, coder: Coder) -> Tensor:
        """Undo `code_elements`, numbers and bits alike."""
        raise ValueError(f"{type(self).__name__} has no coding rule: it cannot decompress")

    def _params_of_numbers(self, x1: Tensor, context: Tensor | None) -> Tensor:
        return self._params(to_float(x1, next(self.net.parameters()).dtype), context)

    def _params(self, x1: Tensor, context: Tensor | None, seeds: Tensor | None = None) -> Tensor:
        given = (context,) if seeds is None else (context, seeds)
        return self.net(x1, *given).unflatten(-1, (-1, self.parameters_per_element))

    @torch.no_grad()
    def embed(self, narrow: Any, places: tuple[Places, Places]) -> tuple[Places, Places]:
        """The network sees nothing of the extra channels, and gives theirs what leaves them."""
        net: Any = self.net
        net.embed(narrow.net, places[0], places[1], self.resting())
        return places[0], places[1].scaled(self.rests_at)
