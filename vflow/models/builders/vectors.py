"""Flows of vectors: Glow and Residual Flow steps with fully connected networks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import nn

from vflow.densities import ConditionalDensity
from vflow.flows import (
    COUPLINGS,
    ActNormConv1x1,
    ChannelSplit,
    Compose,
    Flow,
    Inverse,
    ResidualBlock,
    Shape,
)
from vflow.flows.couplings import AffineSpec
from vflow.io.fields import require_int, require_slope, take_plain_numbers
from vflow.models.builders.base import FLOWS, POSTERIORS
from vflow.nets import MLP, LipschitzMLP

NEGATIVE_SLOPE = 0.1
COEFFICIENT = 0.9


@dataclass(frozen=True, kw_only=True)
class _VectorGlowFields:
    """Steps of ActNorm, linear layer and coupling."""

    steps: int = 3
    """Steps."""
    hidden: int = 50
    """Width of the couplings' networks."""
    layers: int = 2
    """Hidden layers of the couplings' networks."""
    negative_slope: float = NEGATIVE_SLOPE
    """Of the networks' leaky ReLU; 0 for ReLU, whose units die in long training."""
    coupling: Any = field(default=AffineSpec(), metadata={"kinds": COUPLINGS})
    """The coupling."""

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ValueError: Naming the field, what it must be and what it is.
        """
        take_plain_numbers(self)
        for name in ("steps", "hidden", "layers"):
            require_int(name, getattr(self, name), 1)
        require_slope("negative_slope", self.negative_slope)
        COUPLINGS.require("coupling", self.coupling)

    @classmethod
    def tiny(cls) -> Any:
        """At its smallest, for tests."""
        return cls(steps=2, hidden=6, layers=1)

    def flow(self, dims: int, context_dims: int) -> Flow:
        """The steps on vectors [B, D].

        The linear layers start as random rotations (Kingma & Dhariwal, 2018): it is they that give
        the next coupling other halves, and near the identity all couplings would move the same one.
        """
        kept = dims // 2
        flows: list[Flow] = []
        for _ in range(self.steps):
            linear = ActNormConv1x1((dims,))
            nn.init.orthogonal_(linear.weight)
            net = MLP(
                kept + context_dims,
                self.coupling.parameters * (dims - kept),
                hidden=self.hidden,
                layers=self.layers,
                negative_slope=self.negative_slope,
            )
            split = ChannelSplit(kept)
            flows += [linear, split, self.coupling.build(net), Inverse(split)]
        return Compose(flows)


@FLOWS.register("vector-glow")
@dataclass(frozen=True, kw_only=True)
class VectorGlowSpec(_VectorGlowFields):
    """Glow on vectors, as in VFlow's toy study (Chen et al., 2020, Sec. 5)."""

    context_dims: int = 0
    """Dimensions of what the density is conditioned on; 0 for an unconditional one."""

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ValueError: Naming the field, what it must be and what it is.
        """
        take_plain_numbers(self)
        super().__post_init__()
        require_int("context_dims", self.context_dims, 0)

    def check(self, shape: Shape, extra: int) -> None:
        """Raise ValueError unless the data are vectors, of at least 2 dimensions if alone."""
        (dims,) = require_vector(shape)
        if dims == 1 and self.context_dims == 0:
            raise ValueError("dims must be at least 2 without a context, got 1")

    def build(self, shape: Shape, extra: int) -> Flow:
        """The flow of vectors [D]."""
        return self.flow(shape[0], self.context_dims)


@POSTERIORS.register("vector-glow")
@dataclass(frozen=True, kw_only=True)
class VectorGlowPosteriorSpec(_VectorGlowFields):
    """q(z|x) by Glow steps from noise to z, whose networks see x too."""

    steps: int = 1
    """Steps."""

    def build(
        self, shape: Shape, data_channels: int, shared: nn.Module | None
    ) -> ConditionalDensity:
        """q(z|x) for z of shape [Dz]; with one dimension a step is a Gaussian layer."""
        (dims,) = require_vector(shape)
        return ConditionalDensity(self.flow(dims, data_channels))


@FLOWS.register("vector-residual")
@dataclass(frozen=True, kw_only=True)
class VectorResidualSpec:
    """A Residual Flow (Chen et al., 2019) of fully connected blocks on vectors."""

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
        for name in ("steps", "hidden", "layers"):
            require_int(name, getattr(self, name), 1)
        require_coefficient(self.coefficient)

    @classmethod
    def tiny(cls) -> VectorResidualSpec:
        """At its smallest, for tests."""
        return cls(steps=2, hidden=6, layers=1)

    def check(self, shape: Shape, extra: int) -> None:
        """Raise ValueError unless the data are vectors."""
        require_vector(shape)

    def build(self, shape: Shape, extra: int) -> Flow:
        """The flow of vectors [D]."""
        (dims,) = shape
        flows: list[Flow] = []
        for _ in range(self.steps):
            linear = ActNormConv1x1((dims,))
            nn.init.orthogonal_(linear.weight)
            net = LipschitzMLP(
                dims, hidden=self.hidden, layers=self.layers, coefficient=self.coefficient
            )
            flows += [linear, ResidualBlock(net)]
        return Compose(flows)


def require_coefficient(value: object) -> None:
    """Raise ValueError unless a Lipschitz constant is in (0, 1)."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1:
        raise ValueError(f"coefficient must be a number in (0, 1), got {value!r}")


def require_vector(shape: Shape) -> Shape:
    """Raise ValueError unless the data are vectors; return their shape [D]."""
    if len(shape) != 1:
        raise ValueError(f"data must be vectors for this kind, got shape {list(shape)}")
    return shape
