"""Residual Flow for vectors: ActNorm, an invertible linear layer and a residual block a step."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from vflow.flows import ActNormConv1x1, Compose, Flow, ResidualBlock
from vflow.models.config import require_int
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

    The inverse is a fixed point, found to rounding; log-determinants are exact up to 16 dimensions
    and unbiased estimates above (`vflow.flows.ResidualBlock`).
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
