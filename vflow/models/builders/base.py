"""What a builder is: the options of a kind, a frozen dataclass that makes the thing."""

from __future__ import annotations

from typing import Any, Protocol

from torch import nn

from vflow.densities import ConditionalDensity
from vflow.flows import Flow, Shape
from vflow.io.fields import require_int
from vflow.io.kinds import Kinds

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


def take_scales(spec: Any, what: str) -> None:
    """Make a spec's `scales` a tuple of integers of at least 1.

    Args:
        spec: A frozen dataclass with that field.
        what: What is counted at each scale, for errors.

    Raises:
        ValueError: Unless they are, and one of them at least.
    """
    if not isinstance(spec.scales, tuple | list) or not spec.scales:
        raise ValueError(f"scales must hold the {what} of at least one, got {spec.scales!r}")
    object.__setattr__(spec, "scales", tuple(spec.scales))
    for count in spec.scales:
        require_int(f"the {what} in scales", count, 1)


def require_images_divisible_by(unit: int, shape: Shape) -> None:
    """Raise ValueError unless a shape is that of images whose sides are multiples of `unit`."""
    if len(shape) != 3:
        raise ValueError(f"data must be images for this kind, got shape {list(shape)}")
    if any(size % unit for size in shape[:2]):
        raise ValueError(
            f"image_size must have a height and width divisible by {unit}, got "
            f"{shape[0]}x{shape[1]}"
        )
