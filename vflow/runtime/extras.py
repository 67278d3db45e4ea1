"""What only some uses need: pip's extras, and one line for whoever lacks one.

`pip install vflow` brings what models and data need. What the command line, photographs, scores,
FID and JPEG XL need besides is imported where it is used, after `require`.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from typing import TYPE_CHECKING, Any

BROUGHT_BY = {
    "imagecodecs": ("imagecodecs", "codecs"),
    "matplotlib": ("matplotlib", "cli"),
    "pytest_benchmark": ("pytest-benchmark", "bench"),
    "scipy": ("scipy", "scores"),
    "skimage": ("scikit-image", "demo"),
    "tensorboard": ("tensorboard", "cli"),
    "timm": ("timm", "fid"),
    "torch_fidelity": ("torch-fidelity", "fid"),
    "torchmetrics": ("torchmetrics", "fid"),
    "tqdm": ("tqdm", "cli"),
    "tyro": ("tyro", "cli"),
}
"""Module -> its package's name, and the extra of pyproject.toml that brings it."""


class MissingExtra(ImportError):
    """Something that one of the package's extras brings is not installed."""


def require(module: str, use: str) -> None:
    """Make sure that a module of an extra is installed, before it is imported.

    Args:
        module: A key of `BROUGHT_BY`.
        use: What needs it, for the reader.

    Raises:
        MissingExtra: If it is not installed; with the command that installs it.
    """
    if not is_installed(module):
        package, _ = BROUGHT_BY[module]
        raise MissingExtra(f"{use} needs {package}, which is not installed: {install(module)}")


def is_installed(module: str) -> bool:
    """Whether a module can be found, which is not imported for that."""
    if module in sys.modules:
        return sys.modules[module] is not None
    return importlib.util.find_spec(module) is not None


def install(module: str) -> str:
    """The command that installs the extra that brings a module."""
    return f"pip install 'vflow[{BROUGHT_BY[module][1]}]'"


class _Tyro:
    """Imports tyro when something of it is asked for.

    Configs say by tyro how their fields become flags, in annotations that nothing but a command
    line evaluates: without tyro they are dataclasses as any other.
    """

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # what looks at any object asks for
            raise AttributeError(name)
        require("tyro", "a command line")
        return getattr(importlib.import_module("tyro"), name)


if TYPE_CHECKING:
    import tyro as tyro
else:
    tyro = _Tyro()
