"""The Triton kernels: whether they can run here, and their launchers, imported at the first call.

Triton takes a second to import, and is of no use without a CUDA device: nothing imports it before.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
from collections.abc import Callable
from typing import Any

import torch

LEAST_CAPABILITY = (8, 0)  # of a device that Triton compiles for


def device_missing() -> str | None:
    """Say that there is no CUDA device, or None if there is one.

    Asked anew each time until CUDA is at work: a device may yet be made visible.
    """
    if torch.cuda.is_initialized() or torch.cuda.is_available():
        return None
    return "there is no CUDA device"


def triton_missing() -> str | None:
    """Say why the Triton kernels cannot run here, or None if they can."""
    return _triton_absent() or device_missing() or _triton_broken()


@functools.cache
def _triton_absent() -> str | None:
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed (pip install 'vflow[triton]')"
    return None


@functools.cache
def _triton_broken() -> str | None:
    try:
        importlib.import_module("triton")
    except ImportError as error:
        return f"triton does not import: {error}"
    return None


def triton_launcher(module: str, name: str) -> Callable[..., Any]:
    """The function `name` of vflow.kernels.`module`, imported when it is first called.

    Args:
        module: The kernels' file, by its stem.
        name: The launcher in it.
    """

    @functools.cache
    def find() -> Callable[..., Any]:
        found: Callable[..., Any] = getattr(
            importlib.import_module(f"vflow.kernels.{module}"), name
        )
        return found

    def launch(*arguments: Any) -> Any:
        return find()(*arguments)

    return launch
