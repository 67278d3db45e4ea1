"""Flow++ and VFlow: likelihood-based image flows, exact and fast.

>>> import vflow
>>> model = vflow.create_model("vflow-tiny")
>>> model.sample(2).shape
torch.Size([2, 3, 16, 16])

torch is imported with the first model, so that what comes before is quick and can prepare for it.
"""

from typing import TYPE_CHECKING

from vflow.runtime.threads import shorten_spin as _shorten_spin

if TYPE_CHECKING:
    from vflow import data, densities, evaluate, flows, interop, nets, ops, sample, scores, train
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
        list_trained_models,
        load_model,
        model_config,
    )

__version__ = "0.1.0"

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
    "list_trained_models",
    "load_model",
    "model_config",
    "nets",
    "ops",
    "sample",
    "scores",
    "train",
]

_shorten_spin()

if not TYPE_CHECKING:
    _MODELS = {name for name in __all__ if name[0].isupper()} | {
        *("augment", "create_model", "list_models", "list_trained_models", "load_model"),
        "model_config",
    }

    def __getattr__(name):
        import importlib
        import importlib.util

        if name in _MODELS:
            value = getattr(importlib.import_module("vflow.models"), name)
            globals()[name] = value
            return value
        if name.isidentifier() and name[0] != "_" and importlib.util.find_spec(f"vflow.{name}"):
            return importlib.import_module(f"vflow.{name}")
        raise AttributeError(f"module 'vflow' has no attribute {name!r}")

    def __dir__():
        return sorted({*globals(), *__all__})
