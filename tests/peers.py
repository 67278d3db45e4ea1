"""Public implementations' parameters by their own names, onto ours; values that names determine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tests.golden import seeded
from vflow.flows import ChannelActNormConv1x1, ChannelWhitening, Compose, Coupling, FactorOut


def glow_value(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """What a parameter of Glow-PyTorch is in the golden model."""
    noise = seeded(name, shape)
    if name.endswith("invconv.weight"):
        return np.eye(shape[0], dtype=np.float32) + np.float32(0.05) * noise
    if name.endswith("weight"):
        zero = ".block.4." in name or ".conv.conv." in name
        return noise * np.float32((0.3 if zero else 1.0) / np.sqrt(np.prod(shape[1:])))
    return np.float32(0.05) * noise


def load_glow(model: Any) -> int:
    """Set an image Glow's parameters to the golden model's; return how many numbers were used.

    Glow-PyTorch's squeeze has a block's channels in the order (channel, row, column), ours (row,
    column, channel): the first linear layer after one takes them in ours.
    """
    used = 0
    with torch.no_grad():
        for parameter, name, shape, turn in _glow(model.flow, 0):
            value = torch.from_numpy(glow_value(name, shape)).to(parameter)
            used += value.numel()
            parameter.copy_(turn(value))
    return used


def _glow(flow: Compose, start: int) -> Iterator[tuple[Tensor, str, tuple[int, ...], Any]]:
    """Our parameter, its name and shape in the peer, and the way from there to ours."""
    index, squeezed = start, False
    for layer in flow.flows:
        name = f"flow.layers.{index}"
        if isinstance(layer, ChannelActNormConv1x1):
            channels = len(layer.scale)
            order = _squeeze_order(channels) if squeezed else torch.arange(channels)
            squeezed = False
            yield from _actnorm_conv(layer, name, order)
        elif isinstance(layer, Coupling):
            yield from _block(layer.net, f"{name}.block")
            index += 1
        elif isinstance(layer, FactorOut):
            yield from _zero_conv(layer.prior, f"{name}.conv")
            yield from _glow(layer.rest, index + 1)  # type: ignore[arg-type]
        elif isinstance(layer, ChannelWhitening):
            yield from _top(layer)
        elif type(layer).__name__ == "SpaceToDepth":
            squeezed, index = True, index + 1


def _squeeze_order(channels: int) -> Tensor:
    """For each of our channels, the peer's."""
    return torch.arange(channels).view(-1, 4).t().flatten()


def _actnorm_conv(layer: ChannelActNormConv1x1, name: str, order: Tensor) -> Iterator[Any]:
    # Theirs is (x + bias) exp(logs), then W x; ours (x scale + bias) then x W.
    channels = len(order)
    shape = (1, channels, 1, 1)
    logs = torch.from_numpy(glow_value(f"{name}.actnorm.logs", shape)).flatten().double()
    yield layer.scale, f"{name}.actnorm.logs", shape, lambda v: v.flatten().exp()[order]
    yield (
        layer.bias,
        f"{name}.actnorm.bias",
        shape,
        lambda v: (v.flatten() * logs.to(v).exp())[order],
    )
    weight = (channels, channels)
    yield layer.weight, f"{name}.invconv.weight", weight, lambda v: v.t()[order]


def _block(net: Any, name: str) -> Iterator[Any]:
    for conv, part in ((net.conv1, 0), (net.conv2, 2)):
        shape = (1, len(conv.bias), 1, 1)
        yield conv.weight, f"{name}.{part}.conv.weight", tuple(conv.weight.shape), _same
        yield conv.bias, f"{name}.{part}.actnorm.bias", shape, torch.flatten
        yield conv.log_scale, f"{name}.{part}.actnorm.logs", shape, torch.flatten
    yield from _zero_conv(net.conv3, f"{name}.4")


def _zero_conv(conv: Any, name: str) -> Iterator[Any]:
    yield conv.weight, f"{name}.conv.weight", tuple(conv.weight.shape), _same
    yield conv.bias, f"{name}.conv.bias", tuple(conv.bias.shape), _same
    yield conv.log_scale, f"{name}.logs", (len(conv.bias), 1, 1), torch.flatten


def _top(layer: ChannelWhitening) -> Iterator[Any]:
    # A convolution of zeros: what is left of it is bias exp(3 logs), means before log-sigmas.
    channels = len(layer.mean)
    shape = (2 * channels, 1, 1)
    logs = torch.from_numpy(glow_value("learn_top_fn.logs", shape)).flatten().double()
    for parameter, part in ((layer.mean, 0), (layer.log_sigma, 1)):
        rows = slice(part * channels, (part + 1) * channels)
        yield (
            parameter,
            "learn_top_fn.conv.bias",
            (2 * channels,),
            lambda v, rows=rows: (v * (3 * logs.to(v)).exp())[rows],
        )


def _same(value: Tensor) -> Tensor:
    return value
