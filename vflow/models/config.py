"""Flow++ and VFlow in the papers' terms: flat shorthands for a `ModelConfig`."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TypeAlias

from vflow.flows.elementwise import PIXEL_VALUES
from vflow.io.fields import (
    require_bool,
    require_choice,
    require_image_size,
    require_int,
    take_plain_numbers,
)
from vflow.models.tree import ModelConfig, from_flat

Stages: TypeAlias = tuple[tuple[str, int], ...]
"""Splits and their numbers of steps, in order: (("checkerboard", 2), ("channel", 2))."""

SPLITS = ("checkerboard", "channel")
MAX_CHANNELS = 64
assert PIXEL_VALUES == 256  # images are uint8 throughout


@dataclass(frozen=True, kw_only=True)
class FlowPlusPlusConfig:
    """Flow++ for images (Ho et al., 2019; as in VFlow, Chen et al., 2020, Table 4)."""

    in_channels: int = 3
    """Channels of an image."""
    image_size: tuple[int, int] = (32, 32)
    """Height and width, both multiples of 4; one number stands for a square."""
    filters: int = 96
    """Width F of the couplings' networks, a multiple of `heads`."""
    blocks: int = 10
    """Gated blocks B in each coupling of the flow."""
    components: int = 32
    """Logistics K in each mixture."""
    heads: int = 4
    """Attention heads."""
    attention: bool = True
    """Whether the couplings of the flow and of r(u|x) have attention."""
    dropout: float = 0.2
    """Dropout probability in the couplings' networks."""
    squash: bool = False
    """Whether couplings squash the CDF to [0.05, 0.95] before the logit, as VFlow's do."""
    dequantizer: str = "flow"
    """r(u|x): "flow" (variational dequantization) or "uniform"."""
    dequantizer_blocks: int = 2
    """Gated blocks in each coupling of r(u|x)."""
    full_stages: Stages = (("checkerboard", 4),)
    """Splits and steps at the images' size."""
    half_stages: Stages = (("channel", 2), ("checkerboard", 3))
    """Splits and steps at half the size, after SpaceToDepth."""

    @property
    def total_channels(self) -> int:
        """Channels of the flow: the data's and the extra ones."""
        return self.in_channels

    def to_model_config(self) -> ModelConfig:
        """The config as a tree."""
        return from_flat("FlowPlusPlus", self)

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ValueError: Naming the field, what it must be and what it is.
        """
        take_plain_numbers(self)
        size = self.image_size
        if isinstance(size, int) and not isinstance(size, bool):
            size = (size, size)
        # JSON has lists where we have tuples.
        object.__setattr__(self, "image_size", tuple(size) if isinstance(size, list) else size)
        for name in ("full_stages", "half_stages"):
            stages = tuple(tuple(stage) for stage in getattr(self, name))
            object.__setattr__(self, name, stages)
            for stage in stages:
                if len(stage) != 2:
                    raise ValueError(f"{name} must hold (split, steps) pairs, got {stage!r}")
                require_choice(f"the split in {name}", stage[0], SPLITS)
                require_int(f"the steps in {name}", stage[1], 1)
        require_image_size(self.image_size)
        for name in ("in_channels", "filters", "blocks", "components", "heads"):
            require_int(name, getattr(self, name), 1)
        require_bool("attention", self.attention)
        require_bool("squash", self.squash)
        require_choice("dequantizer", self.dequantizer, ("flow", "uniform"))
        require_int("dequantizer_blocks", self.dequantizer_blocks, 1)
        if self.filters % self.heads:
            raise ValueError(
                f"filters must be a multiple of heads, got filters {self.filters} and heads "
                f"{self.heads}"
            )
        if not isinstance(self.dropout, int | float) or not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be a number in [0, 1), got {self.dropout!r}")


@dataclass(frozen=True, kw_only=True)
class VFlowConfig(FlowPlusPlusConfig):
    """VFlow for images (Chen et al., 2020, Tables 4 to 6)."""

    squash: bool = True
    """Whether couplings squash the CDF to [0.05, 0.95] before the logit (App. B)."""
    extra_dims: int = 3
    """Channels of z, beside those of the image."""
    posterior: str = "flow"
    """q(z|x): "flow" (a conditional flow) or "normal" (N(0, I) whatever x is)."""
    posterior_blocks: int = 3
    """Gated blocks in each coupling of q(z|x)."""
    posterior_attention: bool = True
    """Whether the couplings of q(z|x) have attention."""
    shared_context: bool = False
    """Whether q(z|x) runs r(u|x)'s context network instead of one of its own."""
    affine_blocks: int = 0
    """Gated blocks of the affine layer before the first split; 0 for no such layer."""
    full_stages: Stages = (("checkerboard", 2), ("channel", 2))
    """Splits and steps at the images' size."""
    half_stages: Stages = (("checkerboard", 2), ("channel", 3))
    """Splits and steps at half the size, after SpaceToDepth."""

    @property
    def total_channels(self) -> int:
        """Channels of the flow: the data's and the extra ones."""
        return self.in_channels + self.extra_dims

    def to_model_config(self) -> ModelConfig:
        """The config as a tree."""
        return from_flat("VFlow", self)

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ValueError: Naming the field, what it must be and what it is.
        """
        take_plain_numbers(self)
        super().__post_init__()
        require_int("extra_dims", self.extra_dims, 1)
        require_int("posterior_blocks", self.posterior_blocks, 1)
        require_int("affine_blocks", self.affine_blocks, 0)
        require_choice("posterior", self.posterior, ("flow", "normal"))
        require_bool("posterior_attention", self.posterior_attention)
        require_bool("shared_context", self.shared_context)
        if self.shared_context and (self.dequantizer, self.posterior) != ("flow", "flow"):
            raise ValueError(
                "shared_context must be False unless dequantizer and posterior are both 'flow', "
                f"got {self.dequantizer!r} and {self.posterior!r}"
            )


def flat_config(config: ModelConfig) -> FlowPlusPlusConfig | None:
    """The flat config that is short for this one, None if none is."""
    flat: type[FlowPlusPlusConfig] = FlowPlusPlusConfig if config.augment is None else VFlowConfig
    fields = {
        field.name: getattr(config, field.name)
        for field in dataclasses.fields(flat)
        if hasattr(config, field.name)
    }
    try:
        found = flat(**fields)
    except ValueError:
        return None
    return found if found.to_model_config() == config else None
