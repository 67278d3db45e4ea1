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
    from vflow.models import (
        FlowPlusPlus,
        Glow,
        VFlow,
        create_model,
        list_models,
        load_model,
    )

__version__ = "0.1.0"

__all__ = [
    "FlowPlusPlus",
    "Glow",
    "VFlow",
    "__version__",
    "create_model",
    "list_models",
    "load_model",
]

_shorten_spin()

if not TYPE_CHECKING:
    # Where each name of the above is, the rest of the modules being found by their own.
    _HOMES = {name: "vflow.models" for name in __all__ if name != "__version__"}

    def __getattr__(name):
        import importlib
        import importlib.util

        if name in _HOMES:
            value = getattr(importlib.import_module(_HOMES[name]), name)
            globals()[name] = value
            return value
        if name.isidentifier() and name[0] != "_" and importlib.util.find_spec(f"vflow.{name}"):
            return importlib.import_module(f"vflow.{name}")
        raise AttributeError(f"module 'vflow' has no attribute {name!r}")

    def __dir__():
        return sorted({*globals(), *__all__})
