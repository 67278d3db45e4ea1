"""Flow++ and VFlow: likelihood-based image flows, exact and fast.

>>> import vflow
>>> model = vflow.create_model("vflow-tiny")
>>> model.sample(2).shape
torch.Size([2, 3, 16, 16])
"""

from vflow.loading import load_model
from vflow.models import (
    FlowPlusPlus,
    Glow,
    VFlow,
    augment,
    create_model,
    list_models,
)

__version__ = "0.1.0"

__all__ = [
    "FlowPlusPlus",
    "Glow",
    "VFlow",
    "__version__",
    "augment",
    "create_model",
    "list_models",
    "load_model",
]
