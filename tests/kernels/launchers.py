"""The launchers of vflow.ops.launchers, calling the CUDA library."""

from __future__ import annotations

import importlib
import inspect
from functools import partial
from types import SimpleNamespace

from vflow.ops.launchers.call import call_cuda


def cuda_launchers(module: str) -> SimpleNamespace:
    """Those of a module, by name: tensors in, tensors out, as Triton's."""
    source = importlib.import_module(f"vflow.ops.launchers.{module}")
    functions = inspect.getmembers(source, inspect.isfunction)
    return SimpleNamespace(
        **{
            name: partial(function, call_cuda)
            for name, function in functions
            if function.__module__ == source.__name__ and not name.startswith("_")
        }
    )
