"""The models, their presets, and how they are loaded."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from vflow.models.augment import augment
from vflow.models.classes import class_of, make_model
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
from vflow.models.pretrained import choose_device, open_saved, read_config
from vflow.models.residual_flow import ResidualFlow, ResidualFlowConfig
from vflow.models.saved_files import HubOptions, locate
from vflow.models.tf32 import tf32
from vflow.models.tree import AugmentConfig, ModelConfig
from vflow.models.vector_flow import VectorFlow
from vflow.models.vector_vflow import VectorVFlow, VectorVFlowConfig
from vflow.models.vflow import VFlow
from vflow.models.zoo import describe_trained, list_trained_models

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = [
    "OVERRIDES",
    "AugmentConfig",
    "FlowPlusPlus",
    "FlowPlusPlusConfig",
    "Glow",
    "GlowConfig",
    "ImageFlow",
    "ModelConfig",
    "ResidualFlow",
    "ResidualFlowConfig",
    "VFlow",
    "VFlowConfig",
    "VectorFlow",
    "VectorVFlow",
    "VectorVFlowConfig",
    "augment",
    "class_of",
    "create_model",
    "describe_model",
    "describe_trained",
    "list_models",
    "list_trained_models",
    "load_model",
    "make_model",
    "model_config",
    "tf32",
]


def load_model(
    path: str | Path,
    device: str | torch.device | None = None,
    *,
    map_location: str | torch.device | None = None,
    strict: bool = True,
    **hub: Unpack[HubOptions],
) -> Any:
    """Load a saved model of whatever class its config.json tells, in evaluation mode.

    `vflow.load_model` opens training runs and checkpoints too.

    Args:
        path: A model's folder, a trained model's name, or a repository id on the Hugging Face Hub.
        device: Where to load to; by default the CPU.
        map_location: `device`, by the name that the Hub's models take it under.
        strict: As for `from_pretrained`, like all the rest.
        hub: As for `from_pretrained`.

    Raises:
        FileNotFoundError: If there is no such folder or repository, or a file is missing.
        ValueError: If a file is damaged, a pickle, or of an unknown kind.
    """
    device = choose_device(device, map_location)
    config_path, weights_path = locate(path, **hub)
    return open_saved(read_config(config_path), weights_path, strict).to(device)
