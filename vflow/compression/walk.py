"""One batch of images through a model onto the coder's stacks, and back: bits-back coding.

Encoding pops the noise of r(u|x) and q(z|x), runs both flows and p(x, z) by their layers' coding
rules, and pushes the latent; decoding undoes each of these in reverse. What it costs is the
one-sample bound of the noise that was popped (VFlow, Chen et al., 2020, Eq. 7).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vflow.densities import Augmented, ConditionalDensity, Uniform
from vflow.densities.base import tensors_of
from vflow.flows import Shapes
from vflow.flows.elementwise import PIXEL_BITS
from vflow.models import ImageFlow
from vflow.ops.coder import GRID, GRID_BITS, Coder, to_float

SPARE_BITS = GRID_BITS - PIXEL_BITS
"""Bits of the noise u that the pixels' grid has no use for."""


@dataclass(frozen=True)
class Noise:
    """What encoding popped, as `ImageFlow.elbo` takes it: float64 [B, C, H, W]."""

    eps_u: Tensor
    eps_z: Tensor | None


@torch.inference_mode()
def encode_batch(model: ImageFlow, images: Tensor, coder: Coder) -> Noise:
    """Put images on the stacks.

    Args:
        model: An image model in evaluation mode, on the CPU.
        images: uint8 [B, C, H, W] of the model's shape.
        coder: The stacks.

    Returns:
        The noise that was popped.

    Raises:
        ValueError: If a layer has no coding rule, or a value is beyond it.
    """
    pixels = images.permute(0, 2, 3, 1).long().contiguous()
    u, eps_u = _pop_u(model, pixels, coder)
    x = model.preprocess.code((pixels << PIXEL_BITS) + u, coder)
    density, eps_z = model.density.density, None
    if isinstance(density, Augmented):
        z, eps_z = _pop_z(model, x, coder)
        x = torch.cat([x, z], dim=-1)
    for part in tensors_of(model.flow.code(x, coder)):
        coder.push_normal(part)
    return Noise(_to_noise(eps_u), None if eps_z is None else _to_noise(eps_z))


@torch.inference_mode()
def decode_batch(model: ImageFlow, count: int, coder: Coder) -> Tensor:
    """Take the images of an `encode_batch` off the stacks again.

    Args:
        model: The model.
        count: How many images it was.
        coder: The stacks as it left them.

    Returns:
        uint8 [count, C, H, W].

    Raises:
        ValueError: If the stacks hold no such thing.
    """
    density = model.density.density
    x = model.flow.code_inverse(_pop_latent(model.density.latent_shapes, count, coder), coder)
    if isinstance(density, Augmented):
        channels = x.shape[-1] - density.extra
        x, z = x[..., :channels].contiguous(), x[..., channels:].contiguous()
        _push_z(model, x, z, coder)
    y = model.preprocess.code_inverse(x, coder)
    pixels = y >> PIXEL_BITS
    _push_u(model, pixels, y - (pixels << PIXEL_BITS), coder)
    return pixels.to(torch.uint8).permute(0, 3, 1, 2).contiguous()


def _pop_latent(shapes: Shapes, count: int, coder: Coder) -> Any:
    """One tensor, or as many as the flow has, the last one first."""
    if isinstance(shapes[0], int):
        return coder.pop_normal((count, *shapes))
    return tuple(coder.pop_normal((count, *shape)) for shape in reversed(shapes))[::-1]


def _pop_u(model: ImageFlow, pixels: Tensor, coder: Coder) -> tuple[Tensor, Tensor]:
    """u over 2^26 and the noise it was made of, over 2^32."""
    dequantizer = model.dequantizer
    if dequantizer.flow is None:
        _require_uniform(dequantizer)
        u = coder.pop_bits(tuple(pixels.shape), PIXEL_BITS)
        return u, u << SPARE_BITS
    eps = coder.pop_normal(tuple(pixels.shape))
    u = dequantizer.flow.code(eps, coder, _features(model, dequantizer, pixels << GRID_BITS))
    coder.push_bits(u & ((1 << SPARE_BITS) - 1), SPARE_BITS)
    return u >> SPARE_BITS, eps


def _push_u(model: ImageFlow, pixels: Tensor, u: Tensor, coder: Coder) -> None:
    dequantizer = model.dequantizer
    if dequantizer.flow is None:
        coder.push_bits(u, PIXEL_BITS)
        return
    u = (u << SPARE_BITS) + coder.pop_bits(tuple(u.shape), SPARE_BITS)
    features = _features(model, dequantizer, pixels << GRID_BITS)
    coder.push_normal(dequantizer.flow.code_inverse(u, coder, features))


def _pop_z(model: ImageFlow, x: Tensor, coder: Coder) -> tuple[Tensor, Tensor]:
    """z and the noise it was made of, over 2^32."""
    posterior = model.posterior
    eps = coder.pop_normal((*x.shape[:-1], _extra(model)))
    if posterior.flow is None:
        return eps, eps
    return posterior.flow.code(eps, coder, _features(model, posterior, x)), eps


def _extra(model: ImageFlow) -> int:
    density = model.density.density
    return density.extra if isinstance(density, Augmented) else 0


def _push_z(model: ImageFlow, x: Tensor, z: Tensor, coder: Coder) -> None:
    posterior = model.posterior
    if posterior.flow is not None:
        z = posterior.flow.code_inverse(z, coder, _features(model, posterior, x))
    coder.push_normal(z)


def _features(model: ImageFlow, conditional: ConditionalDensity, x: Tensor) -> Tensor:
    """What a conditional flow is told of x, int64 over 2^32."""
    return conditional.features(to_float(x, next(model.parameters()).dtype))


def _require_uniform(dequantizer: ConditionalDensity) -> None:
    if not isinstance(dequantizer.base, Uniform):
        raise ValueError("dequantizer must be a flow or uniform to compress with")


def _to_noise(numbers: Tensor) -> Tensor:
    return (numbers.double() / GRID).permute(0, 3, 1, 2)
