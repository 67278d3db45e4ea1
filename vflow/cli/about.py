"""What the library has to say of itself: its models, and what it finds on this machine."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from dataclasses import dataclass
from typing import Annotated

import torch

import vflow
from vflow.models import (
    ModelConfig,
    describe_model,
    describe_trained,
    list_models,
    list_trained_models,
    make_model,
    model_config,
)
from vflow.models.pretrained import locate, read_config
from vflow.ops import backend
from vflow.runtime.extras import BROUGHT_BY, install, tyro
from vflow.runtime.threads import describe_spin

LIBRARIES = (
    *("torch", "triton", "numpy", "safetensors", "huggingface_hub", "tyro", "tqdm", "tensorboard"),
    *("matplotlib", "pillow", "scikit-image", "scipy"),
)


@dataclass(frozen=True, kw_only=True)
class ModelsConfig:
    """List the trained models and the presets, with their sizes and numbers of parameters."""

    pattern: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="PATTERN")] = "*"
    """Which, as in a shell: "vflow-4m-*"."""


@dataclass(frozen=True, kw_only=True)
class InfoConfig:
    """Tell the versions, the devices and the backends of the operations."""


def describe_models(pattern: str = "*") -> str:
    """A table of what is trained and of the presets: name, image size, parameters, a line on each.

    Raises:
        ValueError: If none matches the pattern.
    """
    trained, presets = list_trained_models(pattern), list_models(pattern)
    if not trained + presets:
        names = ", ".join(list_trained_models() + list_models())
        raise ValueError(f"pattern must match one of {names}, got {pattern!r}")
    rows = [_row(name, read_config(locate(name)[0]), describe_trained(name)) for name in trained]
    rows += [_row(name, model_config(name), describe_model(name)) for name in presets]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = [
        f"{name:<{widths[0]}}  {size:>{widths[1]}}  {parameters:>{widths[2]}}  {line}"
        for name, size, parameters, line in rows
    ]
    sections = []
    if trained:
        sections.append(["trained, for vflow.load_model", *lines[: len(trained)]])
    if presets:
        sections.append(["presets, for vflow.create_model", *lines[len(trained) :]])
    return "\n\n".join("\n".join(section) for section in sections)


def _row(name: str, config: ModelConfig, line: str) -> tuple[str, str, str, str]:
    with torch.device("meta"):  # shapes alone: a large model takes no memory
        model = make_model(config)
    size = "x".join(map(str, model.data_shape))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return name, size, f"{parameters:,}", line


def describe_machine() -> str:
    """Versions, devices and backends, for a reader or a bug report."""
    lines = [
        f"vflow {vflow.__version__}, Python {platform.python_version()}, {platform.platform()}",
        *(f"  {name} {_version(name)}" for name in LIBRARIES),
        "devices",
        f"  cpu: {platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads",
        f"  OpenMP: {describe_spin()}",
        *(f"  {line}" for line in _cuda_devices()),
        "operations",
    ]
    operations = backend.describe()
    for operation, states in operations.items():
        ready = [name for name, state in states.items() if state == "available"]
        lines.append(f"  {operation}: {', '.join(ready)}")
    reasons = {
        f"  {name}: {reason}": None
        for states in operations.values()
        for name, reason in states.items()
        if reason != "available" and " has no " not in reason
    }
    if reasons:
        lines += ["not available", *reasons]
    return "\n".join(lines)


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        modules = [module for module, (package, _) in BROUGHT_BY.items() if package == name]
        return "; ".join(["not installed", *map(install, modules)])


def _cuda_devices() -> list[str]:
    if not torch.cuda.is_available():
        return ["cuda: none"]
    lines = []
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        memory = properties.total_memory / 2**30
        capability = f"{properties.major}.{properties.minor}"
        lines.append(f"cuda:{index}: {properties.name}, sm {capability}, {memory:.0f} GiB")
    return lines
