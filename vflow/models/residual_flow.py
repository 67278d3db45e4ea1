"""Residual Flow for vectors: ActNorm, an invertible linear layer and a residual block a step."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vflow.flows import ActNormConv1x1, Compose, Flow, ResidualBlock
from vflow.flows.residual import estimate
from vflow.models.config import require_int
from vflow.models.steps import normal_log_prob
from vflow.models.vector_flow import VectorFlow
from vflow.nets import LipschitzMLP

COEFFICIENT = 0.9


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
        for name in ("dims", "steps", "hidden", "layers"):
            require_int(name, getattr(self, name), 1)
        require_coefficient(self.coefficient)


def require_coefficient(value: object) -> None:
    """Raise ValueError unless a Lipschitz constant is in (0, 1)."""
    if not isinstance(value, float) or not 0 < value < 1:
        raise ValueError(f"coefficient must be a number in (0, 1), got {value!r}")


class ResidualFlow(VectorFlow):
    """A density on R^D by invertible residual blocks.

    The inverse is a fixed point, found to rounding. Log-determinants are exact, at the cost of a
    Jacobian [B, D, D] a block; `estimate_log_prob` trains in many dimensions without one.
    """

    config_class = ResidualFlowConfig
    config: ResidualFlowConfig

    def __init__(self, config: ResidualFlowConfig) -> None:
        super().__init__()
        self.config = config
        self.flow = residual_flow(
            config.dims,
            config.steps,
            hidden=config.hidden,
            layers=config.layers,
            coefficient=config.coefficient,
        )

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


def residual_flow(
    dims: int, steps: int, *, hidden: int, layers: int, coefficient: float
) -> Compose:
    """Steps of ActNorm, linear layer and residual block on vectors [B, D]."""
    flows: list[Flow] = []
    for _ in range(steps):
        linear = ActNormConv1x1((dims,))
        nn.init.orthogonal_(linear.weight)
        net = LipschitzMLP(dims, hidden=hidden, layers=layers, coefficient=coefficient)
        flows += [linear, ResidualBlock(net)]
    return Compose(flows)
