"""Flow++ for images (Ho et al., 2019), as in VFlow (Chen et al., 2020, Tables 4 to 6)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeAlias

from vflow.flows import (
    COUPLINGS,
    ChannelSplit,
    Compose,
    Flow,
    GaussianAffineCoupling,
    Inverse,
    Shape,
    SpaceToDepth,
    TupleFlip,
)
from vflow.flows.couplings import MixLogisticSpec
from vflow.io.fields import (
    require_bool,
    require_choice,
    require_int,
    require_number,
    take_plain_numbers,
)
from vflow.models.builders.base import FLOWS, require_images_divisible_by
from vflow.models.builders.steps import SPLITS, Steps, split_steps
from vflow.nets import Trunk

Stages: TypeAlias = tuple[tuple[str, int], ...]
"""Splits and their numbers of steps, in order: (("checkerboard", 2), ("channel", 2))."""


@FLOWS.register("flowpp")
@dataclass(frozen=True, kw_only=True)
class FlowppSpec:
    """Steps at one scale after another, SpaceToDepth between them."""

    scales: tuple[Stages, ...] = (
        (("checkerboard", 4),),
        (("channel", 2), ("checkerboard", 3)),
    )
    """The stages of each scale, splits and their numbers of steps; a scale may have none."""
    filters: int = 96
    """Width F of the couplings' networks, a multiple of `heads`."""
    blocks: int = 10
    """Gated blocks B in each coupling."""
    heads: int = 4
    """Attention heads."""
    attention: bool = True
    """Whether the couplings have attention."""
    dropout: float = 0.2
    """Dropout probability in the couplings' networks."""
    coupling: Any = field(default=MixLogisticSpec(), metadata={"kinds": COUPLINGS})
    """The coupling."""
    weight_std: float = 0.001
    """The 1x1 convolutions start at I + weight_std * N(0, 1)."""
    conv1x1: bool = field(default=True, metadata={"before": True})
    """Whether each step has a 1x1 convolution of each half."""
    weight_norm: bool = field(default=False, metadata={"before": False})
    """Whether the networks have weight normalisation (Salimans & Kingma, 2016)."""
    final_elu: bool = field(default=False, metadata={"before": False})
    """Whether concat_elu comes before the last convolution of a coupling's network."""
    affine_blocks: int = 0
    """Gated blocks of the Gaussian layer (x - mu(z)) / sigma(z) before all; 0 for no such layer."""

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ValueError: Naming the field, what it must be and what it is.
        """
        take_plain_numbers(self)
        object.__setattr__(self, "scales", read_scales(self.scales))
        check_trunk_fields(self)
        require_int("affine_blocks", self.affine_blocks, 0)

    @classmethod
    def tiny(cls) -> FlowppSpec:
        """At its smallest, for tests."""
        return cls(
            filters=4,
            blocks=1,
            heads=2,
            dropout=0.0,
            coupling=MixLogisticSpec.tiny(),
            scales=((("checkerboard", 1),), (("channel", 1), ("checkerboard", 1))),
        )

    def check(self, shape: Shape, extra: int) -> None:
        """Raise ValueError unless the images can be halved and split as the scales say."""
        require_images_divisible_by(2 ** len(self.scales), shape)
        for index, stages in enumerate(self.scales):
            if shape[-1] * 4**index < 2 and any(split == "channel" for split, _ in stages):
                raise ValueError(
                    f"the split in scales[{index}] must be checkerboard for a single channel, got "
                    "channel"
                )

    def build(self, shape: Shape, extra: int) -> Flow:
        """The flow of images [H, W, C]."""
        steps = steps_of(self)
        flows = self._gaussian_layer(shape, extra) if self.affine_blocks and extra else []
        for index, stages in enumerate(self.scales):
            if index:
                flows.append(SpaceToDepth())
                shape = flows[-1].output_shape(shape)
            for split, count in stages:
                flows += split_steps(split, count, shape, steps)
        return Compose(flows)

    def _gaussian_layer(self, shape: Shape, extra: int) -> list[Flow]:
        height, width, channels = shape
        data = channels - extra
        net = Trunk(
            extra,
            2 * data,
            filters=self.filters,
            blocks=self.affine_blocks,
            heads=None,
            size=(height, width),
            dropout=self.dropout,
            weight_norm=self.weight_norm,
            final_elu=self.final_elu,
        )
        split = ChannelSplit(data)
        # A coupling changes the second half: x.
        return [split, TupleFlip(), GaussianAffineCoupling(net), TupleFlip(), Inverse(split)]


def steps_of(spec: Any, context_channels: int | None = None) -> Steps:
    """The couplings that a spec's fields tell."""
    return Steps(
        coupling=spec.coupling,
        filters=spec.filters,
        blocks=spec.blocks,
        heads=spec.heads if spec.attention else None,
        dropout=spec.dropout,
        weight_std=spec.weight_std,
        conv1x1=spec.conv1x1,
        weight_norm=spec.weight_norm,
        final_elu=spec.final_elu,
        context_channels=context_channels,
    )


def check_trunk_fields(spec: Any) -> None:
    """Raise ValueError unless a spec's filters, blocks, heads and the like are good."""
    for name in ("filters", "blocks", "heads"):
        require_int(name, getattr(spec, name), 1)
    for name in ("attention", "conv1x1", "weight_norm", "final_elu"):
        require_bool(name, getattr(spec, name))
    if spec.filters % spec.heads:
        raise ValueError(
            f"filters must be a multiple of heads, got filters {spec.filters} and heads "
            f"{spec.heads}"
        )
    require_dropout(spec.dropout)
    require_number("weight_std", spec.weight_std, least=0)
    COUPLINGS.require("coupling", spec.coupling)


def require_dropout(value: Any) -> None:
    """Raise ValueError unless a dropout probability is in [0, 1)."""
    if not isinstance(value, int | float) or not 0 <= value < 1:
        raise ValueError(f"dropout must be a number in [0, 1), got {value!r}")


def read_scales(scales: Any) -> tuple[Stages, ...]:
    """The stages of each scale, with tuples where JSON has lists.

    Raises:
        ValueError: Naming what is wrong.
    """
    if not isinstance(scales, tuple | list) or not scales:
        raise ValueError(f"scales must hold the stages of at least one scale, got {scales!r}")
    found = []
    for index, stages in enumerate(scales):
        name = f"scales[{index}]"
        if not isinstance(stages, tuple | list):
            raise ValueError(f"{name} must hold (split, steps) pairs, got {stages!r}")
        for stage in stages:
            if not isinstance(stage, tuple | list) or len(stage) != 2:
                raise ValueError(f"{name} must hold (split, steps) pairs, got {stage!r}")
            require_choice(f"the split in {name}", stage[0], SPLITS)
            require_int(f"the steps in {name}", stage[1], 1)
        found.append(tuple((split, steps) for split, steps in stages))
    return tuple(found)
