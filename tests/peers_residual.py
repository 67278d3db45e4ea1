"""The parameters of rtqichen/residual-flows by their own names, onto our image Residual Flow."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tests import golden
from vflow.flows import ActNorm, ImageResidualBlock, SpaceToDepth
from vflow.nets import LipschitzDenseNet

CASE: dict[str, Any] = {
    "image_size": 8,
    "scales": (2, 1),
    "width": 8,
    "dense_blocks": 4,
    "dense_width": 6,
}
"""What the golden model has in place of the preset's sizes."""


def value(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """What a parameter of residual-flows is in the golden model; every map a contraction."""
    noise = golden.seeded(name, shape)
    if name.endswith("beta"):
        return np.float32(0.5) + np.float32(0.2) * noise
    if name.endswith("weight") and len(shape) > 1:
        kernel = np.float32(shape[2] if len(shape) == 4 else 1)
        norm = kernel * np.float32(np.sqrt(shape[0]) + np.sqrt(shape[1]))
        return noise * np.float32(0.8) / norm
    return np.float32(0.1) * noise


def inputs() -> tuple[Tensor, Tensor]:
    """Two images, uint8, and their noise in [0, 1), float64: [2, 3, 8, 8]."""
    side = CASE["image_size"]
    images = golden.seeded_images(2)[:, :, :side, :side].contiguous()
    return images, golden.tensor(np.abs(golden.seeded("residual_u", tuple(images.shape))) % 1)


def load(model: Any) -> int:
    """Set a Residual Flow's parameters to the golden model's; return how many numbers it has."""
    found = set()
    with torch.no_grad():
        for ours, theirs in counterparts(model):
            assert ours.shape == theirs.shape
            ours.copy_(theirs)
            found.add(id(ours))
    assert found == {id(parameter) for parameter in model.parameters()}
    return sum(parameter.numel() for parameter in model.parameters())


def counterparts(model: Any) -> Iterator[tuple[Tensor, Tensor]]:
    """Our parameters and their values.

    Their squeeze has a block's channels in the order (channel, row, column), ours (row, column,
    channel), and they flatten channels first.
    """
    channels, height, width = model.data_shape
    order = torch.arange(channels)  # for each of our channels, theirs
    scale, place = 0, 1  # theirs begins with the logit
    for layer in model.flow.flows:
        name = f"transforms.{scale}.chain.{place}"
        elements = order * height * width + torch.arange(height * width).unsqueeze(1)
        place += 1
        if isinstance(layer, SpaceToDepth):
            order = (4 * order + torch.arange(4).unsqueeze(1)).flatten()
            height, width = height // 2, width // 2
            scale, place = scale + 1, 0
        elif isinstance(layer, ActNorm):
            if layer.weight.ndim == 1:
                yield from _actnorm(layer, name, order)
            else:
                yield from _actnorm(layer, f"{name}.fc_module", elements.flatten())
        elif isinstance(layer, ImageResidualBlock):
            dense = isinstance(layer.net, LipschitzDenseNet)
            inner = f"{name}.nnet.nnet" if dense else f"{name}.nnet"
            yield from _net(layer.net, inner, elements.flatten() if dense else order)
        else:
            raise TypeError(f"no counterpart of {type(layer).__name__}")


def _actnorm(layer: ActNorm, name: str, order: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    # Theirs is (x + bias) exp(weight).
    log_scale, shift = (_tensor(f"{name}.{part}", (len(order),)) for part in ("weight", "bias"))
    scale = log_scale.exp()
    yield layer.weight, scale[order].view_as(layer.weight)
    yield layer.bias, (shift * scale)[order].view_as(layer.bias)


def _net(net: Any, name: str, order: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    first = 1 if net.preactivated else 0
    for index, activation in enumerate(net.activations):
        at = 2 * index + (1 - first)
        yield activation.sharpness, _tensor(f"{name}.{at}.beta", (1,))
    last = len(net.maps) - 1
    for index, layer in enumerate(net.maps):
        at = f"{name}.{2 * index + first}"
        weight = _tensor(f"{at}.weight", tuple(layer.weight.shape))
        bias = _tensor(f"{at}.bias", tuple(layer.bias.shape))
        if index == 0:
            weight = weight[:, order]
        if index == last:
            weight, bias = weight[order], bias[order]
        yield layer.weight, weight
        yield layer.bias, bias


def _tensor(name: str, shape: tuple[int, ...]) -> Tensor:
    return golden.tensor(value(name, shape))
