"""The models, their presets, and how they are loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeAlias

import torch

from vflow.models.augment import augment
from vflow.models.config import FlowPlusPlusConfig, VFlowConfig
from vflow.models.flowpp import FlowPlusPlus
from vflow.models.glow import Glow, GlowConfig
from vflow.models.image_flow import ImageFlow
from vflow.models.presets import (
    OVERRIDES,
    create_model,
    describe_model,
    list_models,
    model_config,
)
from vflow.models.pretrained import locate, read_config
from vflow.models.residual_flow import ResidualFlow, ResidualFlowConfig
from vflow.models.tf32 import tf32
from vflow.models.vector_vflow import VectorVFlow, VectorVFlowConfig
from vflow.models.vflow import VFlow

__all__ = [
    "OVERRIDES",
    "FlowPlusPlus",
    "FlowPlusPlusConfig",
    "Glow",
    "GlowConfig",
    "ImageFlow",
    "ResidualFlow",
    "ResidualFlowConfig",
    "VFlow",
    "VFlowConfig",
    "VectorVFlow",
    "VectorVFlowConfig",
    "augment",
    "create_model",
    "describe_model",
    "list_models",
    "load_model",
    "model_config",
    "tf32",
]

VectorModel: TypeAlias = Glow | ResidualFlow | VectorVFlow
_CLASSES: dict[str, Any] = {
    "FlowPlusPlus": FlowPlusPlus,
    "VFlow": VFlow,
    "Glow": Glow,
    "ResidualFlow": ResidualFlow,
    "VectorVFlow": VectorVFlow,
}


def load_model(path: str | Path, device: str | torch.device = "cpu") -> ImageFlow | VectorModel:
    """Load a saved model of whatever class its config.json names.

    Args:
        path: A folder, or a repository id on the Hugging Face Hub.
        device: Where to load to.

    Raises:
        FileNotFoundError: If there is no such folder or repository, or a file is missing.
        ValueError: If a file is damaged, a pickle, or of an unknown class.
    """
    config_path, _ = locate(path)
    name, _ = read_config(config_path)
    if name not in _CLASSES:
        raise ValueError(f"{config_path} must name a model of {', '.join(_CLASSES)}, got {name!r}")
    return _CLASSES[name].from_pretrained(path, device=device)
