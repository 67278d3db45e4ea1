"""Glow's affine coupling (Kingma & Dhariwal, 2018), its scale a sigmoid."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vflow.flows.couplings.base import COUPLINGS, Coupling
from vflow.ops import exact
from vflow.ops.coder import Affine, Coder

OFFSET = 2.0


class SigmoidAffineCoupling(Coupling):
    """y2 = (x2 + t(x1)) sigmoid(raw(x1) + 2), as openai/glow has it.

    Args:
        net: Network [..., C1] (and context) -> [..., 2 C2], element-major: each element's shift t
            and raw scale side by side.
    """

    rests_at = -math.log1p(math.exp(-OFFSET))  # the log of sigmoid(2)

    def __init__(self, net: nn.Module) -> None:
        super().__init__(net, 2)

    def transform(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        """Shift and scale."""
        shift, raw = params.unbind(-1)
        return (x + shift) * torch.sigmoid(raw + OFFSET), self._logdet(raw)

    def untransform(self, y: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        """Undo the scale and the shift."""
        shift, raw = params.unbind(-1)
        return y / torch.sigmoid(raw + OFFSET) - shift, -self._logdet(raw)

    def code_elements(self, x: Tensor, params: Tensor, coder: Coder) -> Tensor:
        """Shift and scale whole numbers."""
        return coder.affine(x, self._affine(params))

    def uncode_elements(self, y: Tensor, params: Tensor, coder: Coder) -> Tensor:
        """Undo the scale and the shift."""
        return coder.affine_inverse(y, self._affine(params))

    def _affine(self, params: Tensor) -> Affine:
        shift, raw = params.double().unbind(-1)
        scale = exact.function("sigmoid", raw + OFFSET)
        return Affine(scale, shift * scale)

    def resting(self) -> Tensor:
        """No shift, and the scale it starts with, which a later layer undoes."""
        return torch.zeros(2)

    @staticmethod
    def _logdet(raw: Tensor) -> Tensor:
        return F.logsigmoid(raw + OFFSET).flatten(1).sum(1)


@COUPLINGS.register("sigmoid-affine")
@dataclass(frozen=True, kw_only=True)
class SigmoidAffineSpec:
    """Glow's affine coupling has no options."""

    parameters = 2

    @classmethod
    def tiny(cls) -> SigmoidAffineSpec:
        """At its smallest, for tests."""
        return cls()

    def build(self, net: nn.Module) -> SigmoidAffineCoupling:
        """The coupling of a network."""
        return SigmoidAffineCoupling(net)
