"""The Gaussian coupling of VFlow's small models: the second half is Gaussian given the first."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vflow.flows.couplings.base import COUPLINGS, Coupling
from vflow.ops import exact
from vflow.ops.coder import Affine, Coder

SIGMA_FLOOR = 1e-6


class GaussianAffineCoupling(Coupling):
    """y2 = (x2 - mu(x1)) / sigma(x1), sigma = exp(s) + 1e-6.

    The special affine layer of VFlow's small models (Chen et al., 2020, Tables 5 and 6), where x1
    is z and x2 the data: seen backwards, the data are Gaussian given z.

    Args:
        net: Network [B, H, W, C1] -> [B, H, W, 2 C2], element-major: each element's mu and s side
            by side.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__(net, 2)

    def _mean_and_sigma(self, params: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_sigma = params.unbind(-1)
        return mean, log_sigma.exp() + SIGMA_FLOOR

    def transform(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        """Whiten."""
        mean, sigma = self._mean_and_sigma(params)
        return (x - mean) / sigma, -sigma.log().flatten(1).sum(1)

    def untransform(self, y: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        """Colour again."""
        mean, sigma = self._mean_and_sigma(params)
        return y * sigma + mean, sigma.log().flatten(1).sum(1)

    def code_elements(self, x: Tensor, params: Tensor, coder: Coder) -> Tensor:
        """Whiten whole numbers."""
        return coder.affine(x, self._affine(params))

    def uncode_elements(self, y: Tensor, params: Tensor, coder: Coder) -> Tensor:
        """Colour them again."""
        return coder.affine_inverse(y, self._affine(params))

    def _affine(self, params: Tensor) -> Affine:
        mean, log_sigma = params.double().unbind(-1)
        sigma = exact.function("exp", log_sigma) + SIGMA_FLOOR
        return Affine(1 / sigma, -mean / sigma)

    def resting(self) -> Tensor:
        """Mean 0, sigma 1."""
        return torch.tensor([0.0, math.log1p(-SIGMA_FLOOR)], dtype=torch.float64)


@COUPLINGS.register("gaussian")
@dataclass(frozen=True, kw_only=True)
class GaussianSpec:
    """The Gaussian coupling has no options."""

    parameters = 2

    @classmethod
    def tiny(cls) -> GaussianSpec:
        """At its smallest, for tests."""
        return cls()

    def build(self, net: nn.Module) -> GaussianAffineCoupling:
        """The coupling of a network."""
        return GaussianAffineCoupling(net)
