"""Glow for images (Kingma & Dhariwal, 2018), as openai/glow trains it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from vflow.flows import (
    COUPLINGS,
    ChannelActNormConv1x1,
    ChannelSplit,
    ChannelWhitening,
    Compose,
    FactorOut,
    Flow,
    Inverse,
    Shape,
    SpaceToDepth,
)
from vflow.flows.couplings import SigmoidAffineSpec
from vflow.io.fields import require_bool, require_int, take_plain_numbers
from vflow.models.builders.base import FLOWS, require_images_divisible_by, take_scales
from vflow.nets import GlowNet, ZeroConv


@FLOWS.register("glow")
@dataclass(frozen=True, kw_only=True)
class GlowSpec:
    """SpaceToDepth and steps at each scale; half of the channels leave before the next."""

    scales: tuple[int, ...] = (32, 32, 32)
    """Steps at each scale: ActNorm per channel, 1x1 convolution, coupling."""
    width: int = 512
    """Channels of the couplings' networks."""
    coupling: Any = field(default=SigmoidAffineSpec(), metadata={"kinds": COUPLINGS})
    """The coupling."""
    learned_top: bool = True
    """Whether the last scale's prior has a learned mean and scale per channel."""

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ValueError: Naming the field, what it must be and what it is.
        """
        take_plain_numbers(self)
        take_scales(self, "steps")
        require_int("width", self.width, 1)
        COUPLINGS.require("coupling", self.coupling)
        require_bool("learned_top", self.learned_top)

    @classmethod
    def tiny(cls) -> GlowSpec:
        """At its smallest, for tests."""
        return cls(scales=(2, 2), width=4)

    def check(self, shape: Shape, extra: int) -> None:
        """Raise ValueError unless the images can be halved as often as there are scales."""
        require_images_divisible_by(2 ** len(self.scales), shape)

    def build(self, shape: Shape, extra: int) -> Flow:
        """The flow of images [H, W, C]."""
        return self._scale(shape, self.scales)

    def _scale(self, shape: Shape, scales: tuple[int, ...]) -> Flow:
        steps, *others = scales
        flows: list[Flow] = [SpaceToDepth()]
        height, width, channels = flows[0].output_shape(shape)
        for _ in range(steps):
            flows += self._step(channels)
        if others:
            kept = channels // 2
            prior = ZeroConv(kept, 2 * (channels - kept))
            flows.append(FactorOut(kept, prior, self._scale((height, width, kept), tuple(others))))
        elif self.learned_top:
            flows.append(ChannelWhitening(channels))
        return Compose(flows)

    def _step(self, channels: int) -> list[Flow]:
        kept = channels // 2
        net = GlowNet(kept, self.coupling.parameters * (channels - kept), self.width)
        split = ChannelSplit(kept)
        return [ChannelActNormConv1x1(channels), split, self.coupling.build(net), Inverse(split)]
