"""The class of a model, by its config."""

from __future__ import annotations

from typing import Any

from vflow.models.flowpp import FlowPlusPlus
from vflow.models.glow import Glow
from vflow.models.image_flow import ImageFlow
from vflow.models.residual_flow import ResidualFlow
from vflow.models.tree import ModelConfig
from vflow.models.vector_flow import VectorFlow
from vflow.models.vector_vflow import VectorVFlow
from vflow.models.vflow import VFlow

_ALONE: dict[str, type] = {
    "flowpp": FlowPlusPlus,
    "vector-glow": Glow,
    "vector-residual": ResidualFlow,
}
"""Classes of flows without extra dimensions that have a name."""


def class_of(config: ModelConfig) -> type:
    """VFlow, FlowPlusPlus, Glow, ...; ImageFlow or VectorFlow for a flow without a name."""
    if config.augment is not None:
        return VFlow if config.is_image else VectorVFlow
    return _ALONE.get(config.flow.kind, ImageFlow if config.is_image else VectorFlow)


def make_model(config: ModelConfig) -> Any:
    """A model, freshly initialised from PyTorch's global generator."""
    return class_of(config)(config)
