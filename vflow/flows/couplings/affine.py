"""The affine coupling (Real NVP, Dinh et al., 2017), its log-scale bounded by a tanh."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vflow.flows.couplings.base import COUPLINGS, Coupling
from vflow.io.fields import require_number, take_plain_numbers
from vflow.ops import exact
from vflow.ops.coder import Affine, Coder


class AffineCoupling(Coupling):
    """y2 = x2 exp(s(x1)) + t(x1), with s = bound * tanh(raw / bound).

    Args:
        net: Network [..., C1] (and context) -> [..., 2 C2], element-major: each element's raw
            scale and shift side by side.
        bound: Largest |s|; it keeps the map well-conditioned early in training.
    """

    def __init__(self, net: nn.Module, bound: float = 1.0) -> None:
        super().__init__(net, 2)
        self.bound = bound

    def _log_scale_and_shift(self, params: Tensor) -> tuple[Tensor, Tensor]:
        raw, shift = params.unbind(-1)
        return self.bound * torch.tanh(raw / self.bound), shift

    def transform(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        """Scale and shift."""
        log_scale, shift = self._log_scale_and_shift(params)
        return x * log_scale.exp() + shift, log_scale.flatten(1).sum(1)

    def untransform(self, y: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        """Undo the shift and the scale."""
        log_scale, shift = self._log_scale_and_shift(params)
        return (y - shift) * (-log_scale).exp(), -log_scale.flatten(1).sum(1)

    def code_elements(self, x: Tensor, params: Tensor, coder: Coder) -> Tensor:
        """Scale and shift whole numbers."""
        return coder.affine(x, self._affine(params))

    def uncode_elements(self, y: Tensor, params: Tensor, coder: Coder) -> Tensor:
        """Undo the shift and the scale."""
        return coder.affine_inverse(y, self._affine(params))

    def _affine(self, params: Tensor) -> Affine:
        raw, shift = params.double().unbind(-1)
        log_scale = self.bound * exact.function("tanh", raw / self.bound)
        return Affine(exact.function("exp", log_scale), shift)

    def resting(self) -> Tensor:
        """No scale, no shift."""
        return torch.zeros(2)


@COUPLINGS.register("affine")
@dataclass(frozen=True, kw_only=True)
class AffineSpec:
    """Options of the affine coupling."""

    bound: float = 4.0
    """Largest log-scale."""
    parameters = 2

    @classmethod
    def tiny(cls) -> AffineSpec:
        """At its smallest, for tests."""
        return cls()

    def build(self, net: nn.Module) -> AffineCoupling:
        """The coupling of a network."""
        return AffineCoupling(net, self.bound)

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ValueError: Naming the field, what it must be and what it is.
        """
        take_plain_numbers(self)
        require_number("bound", self.bound, above=0)
