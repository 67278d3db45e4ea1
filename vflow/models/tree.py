"""What a model is made of, as a tree of kinds and their options.

    {"format": 2,
     "data": {"shape": [3, 32, 32]},
     "flow": {"kind": "flowpp", "scales": [...], ...},
     "augment": {"channels": 3, "posterior": {"kind": "flow", ...}},
     "dequantize": {"kind": "flow", ...}}

A model without extra dimensions has null for "augment"; one of vectors, null for "dequantize".
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from vflow.densities import Augmented, ConditionalDensity, Density, FlowDensity
from vflow.flows import Shape
from vflow.io import format1
from vflow.io.configs import FORMAT, content_of_run, todays_tree
from vflow.io.fields import require_int, take_plain_numbers
from vflow.io.kinds import FieldError, read_fields, to_tree
from vflow.models.builders import DEQUANTIZERS, FLOWS, POSTERIORS
from vflow.models.overrides import explain, override, read_flat


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """The extra dimensions."""

    channels: int = 3
    """Channels of z, or dimensions for vectors."""
    posterior: Any = field(metadata={"kinds": POSTERIORS})
    """q(z|x)."""

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ValueError: Naming the field, what it must be and what it is.
        """
        take_plain_numbers(self)
        require_int("extra_dims", self.channels, 1)
        POSTERIORS.require("posterior", self.posterior)


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A model: its data, its flow, and what is wrapped around it."""

    shape: Shape
    """Of the data: [C, H, W] for images, [D] for vectors."""
    flow: Any
    """Options of a kind in `FLOWS`."""
    augment: AugmentConfig | None = None
    """Extra dimensions; None for a model without."""
    dequantize: Any = None
    """Options of a kind in `DEQUANTIZERS`, for images; None for vectors."""

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ValueError: Naming the field, what it must be and what it is.
        """
        take_plain_numbers(self)
        shape = self.shape
        if not isinstance(shape, tuple | list) or len(shape) not in (1, 3):
            raise ValueError(f"shape must be [C, H, W] or [D], got {shape!r}")
        object.__setattr__(self, "shape", tuple(shape))
        for number in shape:
            require_int("each number of shape", number, 1)
        FLOWS.require("flow", self.flow)
        if self.augment is not None and not isinstance(self.augment, AugmentConfig):
            raise ValueError(f"augment must be an AugmentConfig or None, got {self.augment!r}")
        if self.is_image:
            DEQUANTIZERS.require("dequantize", self.dequantize)
        elif self.dequantize is not None:
            raise ValueError("dequantize must be None for vectors")
        *size, channels = self.inner_shape
        self.flow.check((*size, channels + self.extra), self.extra)

    @property
    def is_image(self) -> bool:
        """Whether the data are images."""
        return len(self.shape) == 3

    @property
    def inner_shape(self) -> Shape:
        """Of the data as the flows see them: [H, W, C] or [D]."""
        return (*self.shape[1:], self.shape[0])

    @property
    def extra(self) -> int:
        """Channels of z; 0 without."""
        return 0 if self.augment is None else self.augment.channels

    def to_tree(self) -> dict[str, Any]:
        """The tree, as JSON has it."""
        return {
            "format": FORMAT,
            "data": {"shape": list(self.shape)},
            "flow": to_tree(self.flow),
            "augment": to_tree(self.augment),
            "dequantize": to_tree(self.dequantize),
        }

    @classmethod
    def from_tree(cls, tree: Mapping[str, Any], where: str) -> ModelConfig:
        """The config that a tree tells.

        Args:
            tree: Of `FORMAT`.
            where: What it is called in errors.

        Raises:
            ValueError: If it is no such tree, or a value is out of range.
        """
        wanted = {"format", "data", "flow", "augment", "dequantize"}
        if tree.keys() != wanted:
            odd = ", ".join(sorted(tree.keys() ^ wanted))
            raise FieldError(where, "", f"must have just {', '.join(sorted(wanted))}: {odd} differ")
        augment, dequantize = tree["augment"], tree["dequantize"]
        data = tree["data"]
        if not isinstance(data, Mapping) or data.keys() != {"shape"}:
            raise FieldError(where, "data", f'must be {{"shape": [...]}}, got {data!r}')
        parts = {
            "shape": data["shape"],
            "flow": FLOWS.read(tree["flow"], where, "flow"),
            "augment": None if augment is None else _read_augment(augment, where),
            "dequantize": None
            if dequantize is None
            else DEQUANTIZERS.read(dequantize, where, "dequantize"),
        }
        try:
            return cls(**parts)
        except ValueError as error:
            raise FieldError(where, "", str(error)) from error

    def override(self, changes: Mapping[str, Any], name: str) -> ModelConfig:
        """The config with some values changed, by their flat names (`vflow.models.overrides`).

        Args:
            changes: Values by flat name or by path.
            name: What this config is called in errors.

        Raises:
            ValueError: If there is no such name, or a value is out of range.
        """
        tree, reached = override(self.to_tree(), changes, name)
        try:
            return ModelConfig.from_tree(tree, name)
        except FieldError as error:
            raise explain(error, reached) from error

    def __getattr__(self, name: str) -> Any:
        """A value by its flat name: `config.filters`."""
        if not name.startswith("_") and "flow" in self.__dict__:
            try:
                return read_flat(self, self.to_tree(), name)
            except (KeyError, TypeError):
                pass
        raise AttributeError(f"{type(self).__name__} has no {name}")

    @property
    def total_channels(self) -> int:
        """Channels of the flow: the data's and the extra ones."""
        return self.shape[0] + self.extra

    @property
    def total_dims(self) -> int:
        """Dimensions of a flow of vectors: the data's and the extra ones."""
        return self.shape[0] + self.extra


def read_tree(content: Any, where: str) -> ModelConfig:
    """The config in a file, of whatever format.

    Args:
        content: The file's JSON.
        where: The file.

    Raises:
        ValueError: If it is no config, or a value is out of range.
    """
    return ModelConfig.from_tree(todays_tree(content, where), where)


def config_of_run(fixed: Mapping[str, Any], where: str) -> ModelConfig:
    """The config of a training run's model, by the facts that its checkpoints keep.

    Args:
        fixed: The facts; "model" is the config, which older ones hold as "model.FIELD"s.
        where: The checkpoint.

    Raises:
        ValueError: If it is no config, or a value is out of range.
    """
    return read_tree(content_of_run(fixed), where)


def from_flat(name: str, fields: Any) -> ModelConfig:
    """The config that a flat dataclass is short for.

    Args:
        name: Class of the model that it is the config of.
        fields: The dataclass.
    """
    flat = json.loads(json.dumps(dataclasses.asdict(fields)))
    return ModelConfig.from_tree(format1.tree_of(name, flat, name), name)


def as_model_config(config: Any) -> ModelConfig:
    """A `ModelConfig`, or the one that a flat config is short for.

    Raises:
        ValueError: If it is neither.
    """
    if hasattr(config, "to_model_config"):
        config = config.to_model_config()
    if not isinstance(config, ModelConfig):
        raise ValueError(f"config must be a ModelConfig, got {type(config).__name__}")
    return config


def _read_augment(tree: Any, where: str) -> AugmentConfig:
    found: AugmentConfig = read_fields(AugmentConfig, tree, where, "augment")
    return found


def build(config: ModelConfig) -> tuple[Density, ConditionalDensity | None]:
    """The density of (preprocessed) data, and r(u|x) for images.

    The order in which the parts are made is what a seed's parameters depend on: r, q, p for
    images, as in the authors' code, and p, q for vectors.
    """
    *size, channels = config.inner_shape
    joint, extra = (*size, channels + config.extra), config.extra
    dequantizer = config.dequantize.build(config.inner_shape) if config.is_image else None
    shared = None if dequantizer is None else dequantizer.context
    flow = None if config.is_image else config.flow.build(joint, extra)
    posterior = None
    if config.augment is not None:
        posterior = config.augment.posterior.build((*size, extra), channels, shared)
    if flow is None:
        flow = config.flow.build(joint, extra)
    density: Density = FlowDensity(flow, joint)
    if posterior is not None:
        density = Augmented(density, posterior, extra, posterior_first=config.is_image)
    return density, dequantizer
