"""One batch of images through a model onto the coder's stacks, and back: bits-back coding.

Encoding pops the noise of r(u|x) and q(z|x), runs both flows and p(x, z) by their layers' coding
rules, and pushes the latent; decoding undoes each of these in reverse. What it costs is the
one-sample bound of the noise that was popped (VFlow, Chen et al., 2020, Eq. 7).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vflow.flows.elementwise import PIXEL_BITS, PIXEL_VALUES
from vflow.models import ImageFlow, VFlow
from vflow.models.dequantize import VariationalDequantizer
from vflow.models.posterior import FlowPosterior
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
    if isinstance(model, VFlow):
        z, eps_z = _pop_z(model, x, coder)
        x = torch.cat([x, z], dim=-1)
    else:
        eps_z = None
    coder.push_normal(model.flow.code(x, coder))
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
    height, width = model.config.image_size
    channels = model.config.in_channels
    shape = (count, height // 2, width // 2, 4 * model.config.total_channels)
    x = model.flow.code_inverse(coder.pop_normal(shape), coder)
    if isinstance(model, VFlow):
        x, z = x[..., :channels].contiguous(), x[..., channels:].contiguous()
        _push_z(model, x, z, coder)
    y = model.preprocess.code_inverse(x, coder)
    pixels = y >> PIXEL_BITS
    _push_u(model, pixels, y - (pixels << PIXEL_BITS), coder)
    return pixels.to(torch.uint8).permute(0, 3, 1, 2).contiguous()


def _pop_u(model: ImageFlow, pixels: Tensor, coder: Coder) -> tuple[Tensor, Tensor]:
    """u over 2^26 and the noise it was made of, over 2^32."""
    dequantizer = model.dequantizer
    if not isinstance(dequantizer, VariationalDequantizer):
        u = coder.pop_bits(tuple(pixels.shape), PIXEL_BITS)
        return u, u << SPARE_BITS
    eps = coder.pop_normal(tuple(pixels.shape))
    features = _dequantizer_features(dequantizer, pixels)
    u = dequantizer.conditional.flow.code(eps, coder, features)
    coder.push_bits(u & ((1 << SPARE_BITS) - 1), SPARE_BITS)
    return u >> SPARE_BITS, eps


def _push_u(model: ImageFlow, pixels: Tensor, u: Tensor, coder: Coder) -> None:
    dequantizer = model.dequantizer
    if not isinstance(dequantizer, VariationalDequantizer):
        coder.push_bits(u, PIXEL_BITS)
        return
    u = (u << SPARE_BITS) + coder.pop_bits(tuple(u.shape), SPARE_BITS)
    features = _dequantizer_features(dequantizer, pixels)
    coder.push_normal(dequantizer.conditional.flow.code_inverse(u, coder, features))


def _pop_z(model: VFlow, x: Tensor, coder: Coder) -> tuple[Tensor, Tensor]:
    """z and the noise it was made of, over 2^32."""
    eps = coder.pop_normal((*x.shape[:-1], model.config.extra_dims))
    if not isinstance(model.posterior, FlowPosterior):
        return eps, eps
    return model.posterior.conditional.flow.code(eps, coder, _posterior_features(model, x)), eps


def _push_z(model: VFlow, x: Tensor, z: Tensor, coder: Coder) -> None:
    if isinstance(model.posterior, FlowPosterior):
        z = model.posterior.conditional.flow.code_inverse(z, coder, _posterior_features(model, x))
    coder.push_normal(z)


def _dequantizer_features(dequantizer: VariationalDequantizer, pixels: Tensor) -> Tensor:
    dtype = next(dequantizer.parameters()).dtype
    return dequantizer.context(pixels.to(dtype) / PIXEL_VALUES - 0.5)


def _posterior_features(model: VFlow, x: Tensor) -> Tensor:
    posterior, dequantizer = model.posterior, model.dequantizer
    assert isinstance(posterior, FlowPosterior)
    context = posterior.context
    if context is None:
        assert isinstance(dequantizer, VariationalDequantizer)
        context = dequantizer.context
    return context(to_float(x, next(model.parameters()).dtype))


def _to_noise(numbers: Tensor) -> Tensor:
    return (numbers.double() / GRID).permute(0, 3, 1, 2)
