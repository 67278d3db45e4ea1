"""Residual Flow for vectors: ActNorm, an invertible linear layer and a residual block a step."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vflow.densities import normal_log_prob
from vflow.flows.residual import estimate
from vflow.io.fields import require_int, take_plain_numbers
from vflow.models.builders.vectors import COEFFICIENT, require_coefficient
from vflow.models.tree import ModelConfig, from_flat
from vflow.models.vector_flow import VectorFlow


@dataclass(frozen=True, kw_only=True)
class ResidualFlowConfig:
    """A Residual Flow (Chen et al., 2019) of fully connected blocks."""

    dims: int = 2
    """Dimensions D of the variable."""
    steps: int = 3
    """Steps, each an ActNorm, a linear layer and a residual block."""
    hidden: int = 50
    """Width of the blocks' networks."""
    layers: int = 2
    """Hidden layers of the blocks' networks."""
    coefficient: float = COEFFICIENT
    """Largest Lipschitz constant of a block's network, in (0, 1)."""

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ValueError: Naming the field, what it must be and what it is.
        """
        take_plain_numbers(self)
        for name in ("dims", "steps", "hidden", "layers"):
            require_int(name, getattr(self, name), 1)
        require_coefficient(self.coefficient)

    def to_model_config(self) -> ModelConfig:
        """The config as a tree."""
        return from_flat("ResidualFlow", self)


class ResidualFlow(VectorFlow):
    """A density on R^D by invertible residual blocks.

    The inverse is a fixed point, found to rounding. Log-determinants are exact, at the cost of a
    Jacobian [B, D, D] a block; `estimate_log_prob` trains in many dimensions without one.
    """

    def estimate_log_prob(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """A random estimate of log p(x), unbiased and differentiable: a loss, no likelihood.

        Its cost a point grows with D, that of the exact `log_prob` with D^3. An average over data
        estimates the average log-likelihood; of a single point it may be far off, on either side.

        Args:
            x: [B, D].
            generator: Where the estimate's noise is drawn from; the global one if None.

        Returns:
            [B], nats.

        Raises:
            ValueError: If x has the wrong type or shape.
        """
        self._require("x", x, None)
        eps, logdet = estimate(self.flow, x, generator)
        return normal_log_prob(eps) + logdet
