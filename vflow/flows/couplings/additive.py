"""The additive coupling (NICE, Dinh et al., 2015)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vflow.flows.base import zero_logdet
from vflow.flows.couplings.base import COUPLINGS, Coupling
from vflow.ops.coder import Coder, whole_numbers


class AdditiveCoupling(Coupling):
    """y2 = x2 + t(x1), which keeps volumes.

    Args:
        net: Network [..., C1] (and context) -> [..., C2].
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__(net, 1)

    def transform(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        """Shift."""
        return x + params.squeeze(-1), zero_logdet(x)

    def untransform(self, y: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        """Shift back."""
        return y - params.squeeze(-1), zero_logdet(y)

    def code_elements(self, x: Tensor, params: Tensor, coder: Coder) -> Tensor:
        """Shift whole numbers, which costs no bits."""
        return x + whole_numbers(params.squeeze(-1))

    def uncode_elements(self, y: Tensor, params: Tensor, coder: Coder) -> Tensor:
        """Shift them back."""
        return y - whole_numbers(params.squeeze(-1))

    def resting(self) -> Tensor:
        """No shift."""
        return torch.zeros(1)


@COUPLINGS.register("additive")
@dataclass(frozen=True, kw_only=True)
class AdditiveSpec:
    """The additive coupling has no options."""

    parameters = 1

    @classmethod
    def tiny(cls) -> AdditiveSpec:
        """At its smallest, for tests."""
        return cls()

    def build(self, net: nn.Module) -> AdditiveCoupling:
        """The coupling of a network."""
        return AdditiveCoupling(net)
