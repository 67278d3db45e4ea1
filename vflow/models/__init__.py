"""The models, their presets, and how they are loaded."""

from __future__ import annotations

from vflow.models.augment import augment
from vflow.models.classes import class_of, make_model
from vflow.models.config import FlowPlusPlusConfig, VFlowConfig
from vflow.models.flowpp import FlowPlusPlus
from vflow.models.glow import Glow, GlowConfig
from vflow.models.image_flow import ImageFlow
from vflow.models.loading import load_model
from vflow.models.presets import (
    OVERRIDES,
    create_model,
    describe_model,
    list_models,
    model_config,
)
from vflow.models.residual_flow import ResidualFlow, ResidualFlowConfig
from vflow.models.tree import AugmentConfig, ModelConfig
from vflow.models.vector_flow import VectorFlow
from vflow.models.vector_vflow import VectorVFlow, VectorVFlowConfig
from vflow.models.vflow import VFlow
from vflow.models.zoo import describe_trained, list_trained_models

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
]
