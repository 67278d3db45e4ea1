"""What a builder is: the options of a kind, a frozen dataclass that makes the thing."""

from __future__ import annotations

from typing import Protocol

from torch import nn

from vflow.densities import ConditionalDensity
from vflow.flows import Flow, Shape
from vflow.kinds import Kinds

FLOWS = Kinds("flow")
"""What p is made of."""
POSTERIORS = Kinds("posterior")
"""What q(z|x) is made of."""
DEQUANTIZERS = Kinds("dequantizer")
"""What r(u|x) is made of."""


class FlowSpec(Protocol):
    """The options of a flow kind."""

    @classmethod
    def tiny(cls) -> FlowSpec:
        """At its smallest, for tests."""

    def check(self, shape: Shape, extra: int) -> None:
        """Raise ValueError unless `build` can make a flow for that shape."""

    def build(self, shape: Shape, extra: int) -> Flow:
        """The transform of x and z together.

        Args:
            shape: Of both, [H, W, C] or [D], without the batch.
            extra: How many of the channels, the last ones, are z's.
        """


class PosteriorSpec(Protocol):
    """The options of a posterior kind."""

    @classmethod
    def tiny(cls) -> PosteriorSpec:
        """At its smallest, for tests."""

    def build(
        self, shape: Shape, data_channels: int, shared: nn.Module | None
    ) -> ConditionalDensity:
        """q(z|x).

        Args:
            shape: Of z, [H, W, Dz] or [Dz].
            data_channels: Channels of x.
            shared: The context network of r(u|x), for a q that reads x with it; None if r has none.
        """


class DequantizerSpec(Protocol):
    """The options of a dequantizer kind."""

    preprocess: str
    """How p's values are made of pixels."""

    @classmethod
    def tiny(cls) -> DequantizerSpec:
        """At its smallest, for tests."""

    def build(self, shape: Shape) -> ConditionalDensity:
        """r(u|x) for images of shape [H, W, C]."""
