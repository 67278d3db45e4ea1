"""Which models can be coded with, and in which arithmetic."""

from __future__ import annotations

import torch
from torch import nn

from vflow.densities import Uniform
from vflow.flows import Coupling, Flow
from vflow.models import ImageFlow
from vflow.nets.gated import GatedBlock

NATIVE_TAKES_OTHERS = "the arithmetic native takes others"
_PLAIN = (nn.ModuleList, nn.Sequential, nn.Identity, nn.Dropout, nn.ReLU)
"""Modules of PyTorch that hold others, or give the same bits everywhere."""


def require_codable(model: ImageFlow, name: str) -> None:
    """Raise ValueError unless the model can be coded with in that arithmetic."""
    if not isinstance(model, ImageFlow):
        raise ValueError(f"model must be one of images, got {type(model).__name__}")
    parameter = next(model.parameters())
    if parameter.device.type != "cpu":
        raise ValueError(f"model must be on the CPU to compress, got {parameter.device}")
    for path, module in model.named_modules():
        if not _has_rule(module):
            raise ValueError(
                f"{type(module).__name__} ({path}) has no coding rule: a model with it cannot "
                "compress"
            )
    dequantizer = model.dequantizer
    if dequantizer.flow is None and not isinstance(dequantizer.base, Uniform):
        raise ValueError("dequantizer must be a flow or uniform to compress with")
    if name == "exact":
        _require_exact(model, parameter.dtype)


def _has_rule(module: nn.Module) -> bool:
    if not isinstance(module, Flow):
        return True
    if isinstance(module, Coupling) and type(module).code is Coupling.code:
        return type(module).code_elements is not Coupling.code_elements
    return type(module).code is not Flow.code


def _require_exact(model: ImageFlow, dtype: torch.dtype) -> None:
    if dtype != torch.float32:
        raise ValueError(
            f"exact arithmetic needs a model of float32, got {dtype}; {NATIVE_TAKES_OTHERS}"
        )
    # A gated block runs its norms itself, together with its gates.
    norms = {
        id(norm)
        for block in model.modules()
        if isinstance(block, GatedBlock)
        for norm in (block.norm1, block.norm2)
    }
    for path, module in model.named_modules():
        ours = type(module).__module__.partition(".")[0] == "vflow"
        if not (ours or type(module) in _PLAIN or id(module) in norms):
            raise ValueError(
                f"exact arithmetic cannot run {type(module).__name__} ({path}), whose bits may "
                f"depend on the machine; {NATIVE_TAKES_OTHERS}"
            )
