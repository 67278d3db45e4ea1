"""The mixture-of-logistics coupling of Flow++ (Ho et al., 2019)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vflow.flows.couplings.base import COUPLINGS, Coupling
from vflow.flows.embedding import CannotEmbed
from vflow.io.fields import require_bool, require_int, take_plain_numbers
from vflow.ops import mixlogistic, mixlogistic_inverse
from vflow.ops.coder import Coder


class MixLogisticCoupling(Coupling):
    """Mixture-of-logistics coupling (Ho et al., 2019).

    With the squash of VFlow (Chen et al., 2020, App. B) its output is confined to b +- 2.944 e^a,
    and the inverse of a value outside is clipped: see `vflow.ops.mixlogistic_inverse`.

    Args:
        net: Network [B, H, W, C1] (and context) -> [B, H, W, C2 * (2 + 3K)].
        components: Number K of logistics.
        squash: Whether the CDF is squashed to [0.05, 0.95] before the logit.
    """

    def __init__(self, net: nn.Module, components: int, squash: bool = True) -> None:
        super().__init__(net, 2 + 3 * components)
        self.components = components
        self.squash = squash

    def transform(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        """The logit of the mixture's CDF, scaled and shifted."""
        return mixlogistic(x, params, self.squash)

    def untransform(self, y: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        """Its inverse."""
        return mixlogistic_inverse(y, params, self.squash)

    def code_elements(self, x: Tensor, params: Tensor, coder: Coder) -> Tensor:
        """Linear within cells of 2^-14."""
        return coder.mixture(x, params, self.squash)

    def uncode_elements(self, y: Tensor, params: Tensor, coder: Coder) -> Tensor:
        """Likewise."""
        return coder.mixture_inverse(y, params, self.squash)

    def resting(self) -> Tensor:
        """Equal logistics of mean 0 and scale 1, whose CDF the logit undoes."""
        if self.squash:
            raise CannotEmbed(
                "MixLogisticCoupling with the squash of the CDF to [0.05, 0.95] is the identity "
                "for no parameters; squash must be False"
            )
        return torch.zeros(self.parameters_per_element)


@COUPLINGS.register("mixlogistic")
@dataclass(frozen=True, kw_only=True)
class MixLogisticSpec:
    """Options of the mixture-of-logistics coupling."""

    components: int = 32
    """Logistics K in each mixture."""
    squash: bool = False
    """Whether the CDF is squashed to [0.05, 0.95] before the logit (VFlow, App. B)."""

    @classmethod
    def tiny(cls) -> MixLogisticSpec:
        """At its smallest, for tests."""
        return cls(components=3)

    @property
    def parameters(self) -> int:
        """Scale, shift, and K logits, means and log-scales."""
        return 2 + 3 * self.components

    def build(self, net: nn.Module) -> MixLogisticCoupling:
        """The coupling of a network."""
        return MixLogisticCoupling(net, self.components, self.squash)

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ValueError: Naming the field, what it must be and what it is.
        """
        take_plain_numbers(self)
        require_int("components", self.components, 1)
        require_bool("squash", self.squash)
