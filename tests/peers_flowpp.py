"""The parameters of localbitsback's Flow++ by their own names, onto ours."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from tests import golden
from vflow.flows import ActNormConv1x1, Coupling, Inverse, PerHalf, SpaceToDepth, TupleFlip
from vflow.nets.gated import GatedBlock

SMALL: dict[str, Any] = {
    "filters": 8,
    "blocks": 2,
    "components": 3,
    "dequantizer_blocks": 1,
}
"""What the small models have in place of the presets' sizes."""
CASES: dict[str, dict[str, Any]] = {
    "flowpp-cifar10": SMALL,
    "flowpp-imagenet32": {**SMALL, "dequantizer_context_blocks": 1},
    "flowpp-imagenet64": {**SMALL, "dequantizer_context_blocks": 1},
}


class Counterpart(NamedTuple):
    """One of our parameters, its name in the peer, and our axes among the peer's."""

    parameter: Tensor
    name: str
    axes: tuple[int, ...] | None = None


def value(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """What a parameter of localbitsback is in the golden models."""
    noise, last = golden.seeded(name, shape), name.split(".")[-1]
    small = np.float32(0.1 if "proj_out" in name else 0.6)
    if last == "w" and ".cond." not in name and "context_proc" not in name:  # 1x1 convolutions
        return np.eye(shape[0], dtype=np.float32) + np.float32(0.05) * noise
    if last in ("w", "v"):
        return noise * small / np.float32(np.sqrt(np.prod(shape[1:])))
    if last == "weight" or name.endswith("normalize.g"):
        return np.exp(np.float32(0.1) * noise)
    if last == "g":
        return small * np.exp(np.float32(0.1) * noise)
    return np.float32(0.05) * noise


def load(model: Any) -> int:
    """Set a Flow++'s parameters to the golden model's; return how many numbers were used."""
    used, found = 0, set()
    with torch.no_grad():
        for ours, name, axes in counterparts(model):
            shape = tuple(ours.shape)
            if axes is not None:
                shape = tuple(shape[axis] for axis in np.argsort(axes))
            theirs = torch.from_numpy(value(name, shape))
            ours.copy_(theirs if axes is None else theirs.permute(axes))
            used += theirs.numel()
            found.add(id(ours))
    assert found == {id(parameter) for parameter in model.parameters()}
    return used


def inputs(model: Any) -> tuple[Tensor, Tensor]:
    """Two images, uint8, and the noise of r(u|x), float64: [2, 3, H, W]."""
    channels, height, width = model.data_shape
    shape = (2, height, width, channels)
    pixels = np.clip(np.round(128 + 50 * golden.seeded("images", shape)), 0, 255)
    images = torch.from_numpy(pixels.astype(np.uint8)).permute(0, 3, 1, 2).contiguous()
    return images, golden.tensor(golden.seeded("eps_u", shape)).permute(0, 3, 1, 2)


def counterparts(model: Any) -> Iterator[Counterpart]:
    """Every parameter of a Flow++, once."""
    yield from _context(model.dequantizer.context, "dequant_flow.context_proc")
    noise_flow = model.dequantizer.flow.flows
    # The deep r merges its halves after four steps and splits them again.
    yield from _flow(noise_flow, "dequant_flow.noise_flow", 0, merged_after=4)
    yield from _flow(model.flow.flows, "main_flow", 1)


def _flow(flows: Any, name: str, index: int, merged_after: int = 0) -> Iterator[Counterpart]:
    steps = 0
    for layer in flows:
        at = f"{name}.flows.{index}"
        if isinstance(layer, PerHalf):
            mixes = isinstance(layer.first, ActNormConv1x1)
            for half, part in enumerate((layer.first, layer.second)):
                norm: Any = part
                scale = norm.scale if mixes else norm.weight
                yield Counterpart(scale, f"{at}.flows.{half}.normalize.g", (1, 2, 0))
                yield Counterpart(norm.bias, f"{at}.flows.{half}.normalize.b", (1, 2, 0))
                if mixes:  # theirs multiplies column vectors
                    mixing = f"{name}.flows.{index + 1}.flows.{half}.w"
                    yield Counterpart(norm.weight, mixing, (1, 0))
            index += 2 if mixes else 1
        elif isinstance(layer, Coupling):
            yield from _trunk(layer.net, f"{at}.cond")
            steps, index = steps + 1, index + 1
        elif isinstance(layer, TupleFlip):
            index += 3 if steps == merged_after else 1
        else:
            assert (
                isinstance(layer, Inverse | SpaceToDepth)
                or "Split" in type(layer).__name__
                or (layer is flows[-1])
            )
            index += 1


def _trunk(net: Any, name: str) -> Iterator[Counterpart]:
    if net.position is not None:
        yield Counterpart(net.position, f"{name}.pos_emb", (1, 2, 0))
    yield from _map(net.conv_in, f"{name}.proj_in")
    for index, block in enumerate(net.blocks):
        at = f"{name}.blocks.{index}"
        yield from _map(block.conv.conv1, f"{at}.conv.conv")
        if block.conv.project is not None:
            yield from _map(block.conv.project, f"{at}.conv.aux_proj.dense")
        yield from _map(block.conv.conv2, f"{at}.conv.gate.nin.dense")
        yield from _norm(block.norm1, f"{at}.ln1")
        if block.attention is not None:
            yield from _attention(block.attention, f"{at}.attn")
            yield from _norm(block.norm2, f"{at}.ln2")
    yield from _map(net.conv_out, f"{name}.proj_out")


def _context(net: Any, name: str) -> Iterator[Counterpart]:
    deep = isinstance(net.blocks[0], GatedBlock)
    if net.position is not None:
        yield Counterpart(net.position, f"{name}.pos_emb", (1, 2, 0))
    yield from _map(net.conv_in, f"{name}.conv" if deep else f"{name}.0")
    for index, block in enumerate(net.blocks):
        conv = block.conv if deep else block
        at = f"{name}.gatedconvs.{index}" if deep else f"{name}.{index + 1}"
        yield from _map(conv.conv1, f"{at}.conv")
        yield from _map(conv.conv2, f"{at}.gate.conv")
        if deep:
            yield from _norm(block.norm1, f"{name}.norm1.{index}")
        if deep and block.attention is not None:
            yield from _attention(block.attention, f"{name}.gatedattns.{index}")
            yield from _norm(block.norm2, f"{name}.norm2.{index}")


def _attention(layer: Any, name: str) -> Iterator[Counterpart]:
    yield from _map(layer.qkv, f"{name}.proj_in.dense")
    yield from _map(layer.out, f"{name}.gate.nin.dense")


def _map(layer: Any, name: str) -> Iterator[Counterpart]:
    if layer.gain is None:
        yield Counterpart(layer.weight, f"{name}.w")
    else:
        yield Counterpart(layer.weight, f"{name}.v")
        yield Counterpart(layer.gain, f"{name}.g")
    yield Counterpart(layer.bias, f"{name}.b")


def _norm(layer: nn.LayerNorm, name: str) -> Iterator[Counterpart]:
    yield Counterpart(layer.weight, f"{name}.layernorm.weight")
    yield Counterpart(layer.bias, f"{name}.layernorm.bias")
