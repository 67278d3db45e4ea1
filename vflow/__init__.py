"""Flow++ and VFlow: likelihood-based image flows, exact and fast.

>>> import vflow
>>> model = vflow.create_model("vflow-tiny")
>>> model.sample(2).shape
torch.Size([2, 3, 16, 16])
"""

import importlib
from typing import TYPE_CHECKING, Any

from vflow.loading import load_model
from vflow.models import (
    FlowPlusPlus,
    FlowPlusPlusConfig,
    Glow,
    GlowConfig,
    ResidualFlow,
    ResidualFlowConfig,
    VectorVFlow,
    VectorVFlowConfig,
    VFlow,
    VFlowConfig,
    augment,
    create_model,
    list_models,
    model_config,
)

if TYPE_CHECKING:
    from vflow import data, densities, evaluate, flows, interop, nets, ops, sample, scores, train

__version__ = "0.1.0"

PACKAGES = (
    *("data", "densities", "evaluate", "flows", "interop"),
    *("nets", "ops", "sample", "scores", "train"),
)
"""Imported when they are first asked for: `vflow.train` needs TensorBoard, most do not need it."""

__all__ = [
    "FlowPlusPlus",
    "FlowPlusPlusConfig",
    "Glow",
    "GlowConfig",
    "ResidualFlow",
    "ResidualFlowConfig",
    "VFlow",
    "VFlowConfig",
    "VectorVFlow",
    "VectorVFlowConfig",
    "__version__",
    "augment",
    "create_model",
    "data",
    "densities",
    "evaluate",
    "flows",
    "interop",
    "list_models",
    "load_model",
    "model_config",
    "nets",
    "ops",
    "sample",
    "scores",
    "train",
]


def __getattr__(name: str) -> Any:
    if name in PACKAGES:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
