"""Residual Flow for images (Chen et al., 2019), as rtqichen/residual-flows trains CIFAR-10."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from vflow.flows import ActNorm, Compose, Flow, ImageResidualBlock, Shape, SpaceToDepth
from vflow.io.fields import require_int, take_plain_numbers
from vflow.models.builders.base import FLOWS, require_images_divisible_by, take_scales
from vflow.models.builders.vectors import require_coefficient
from vflow.nets import LipschitzConvNet, LipschitzDenseNet, LipschitzNet


@FLOWS.register("residual")
@dataclass(frozen=True, kw_only=True)
class ResidualSpec:
    """Residual blocks of convolutions at each scale, with SpaceToDepth between; dense ones last.

    Nothing leaves between the scales. Log-determinants are exact unless noise for estimates of them
    is given, as in training (`vflow.flows.ImageResidualBlock`).
    """

    scales: tuple[int, ...] = (16, 16, 16)
    """Blocks of convolutions at each scale, an ActNorm per channel after each."""
    width: int = 512
    """Channels of the convolutions' hidden layers."""
    dense_blocks: int = 4
    """Fully connected blocks at the end, an ActNorm per element after each."""
    dense_width: int = 128
    """Width of the fully connected blocks' hidden layers."""
    coefficient: float = 0.98
    """Largest Lipschitz constant of each map in a block, in (0, 1)."""

    no_graph: ClassVar[str] = (
        "the series of a residual block's log-determinant ends where the step's noise says"
    )
    """Why its steps cannot be a CUDA graph."""

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ValueError: Naming the field, what it must be and what it is.
        """
        take_plain_numbers(self)
        take_scales(self, "blocks")
        for name in ("width", "dense_width"):
            require_int(name, getattr(self, name), 1)
        require_int("dense_blocks", self.dense_blocks, 0)
        require_coefficient(self.coefficient)

    @classmethod
    def tiny(cls) -> ResidualSpec:
        """At its smallest, for tests."""
        return cls(scales=(1, 1), width=4, dense_blocks=1, dense_width=4)

    def check(self, shape: Shape, extra: int) -> None:
        """Raise ValueError unless the images can be halved between the scales."""
        require_images_divisible_by(2 ** (len(self.scales) - 1), shape)

    def build(self, shape: Shape, extra: int) -> Flow:
        """The flow of images [H, W, C]."""
        flows: list[Flow] = [ActNorm(shape[-1:])]
        index = 0

        def block(net: LipschitzNet) -> Flow:
            nonlocal index
            index += 1
            return ImageResidualBlock(net, index - 1)

        for scale, blocks in enumerate(self.scales):
            if scale:
                flows.append(SpaceToDepth())
                shape = flows[-1].output_shape(shape)
            height, width, channels = shape
            for _ in range(blocks):
                net = LipschitzConvNet(
                    (height, width),
                    channels,
                    width=self.width,
                    coefficient=self.coefficient,
                    preactivated=index > 0,  # what is not linear would come before all else
                )
                flows += [block(net), ActNorm((channels,))]
        for _ in range(self.dense_blocks):
            dense = LipschitzDenseNet(shape, width=self.dense_width, coefficient=self.coefficient)
            flows += [block(dense), ActNorm(shape)]
        return Compose(flows)
