"""What scores are made of: the likelihood of each image, and how normal its latent looks."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vflow.evaluate.importance import importance_sample
from vflow.io.fields import require_int
from vflow.models import ImageFlow
from vflow.runtime.randomness import Stream, mix
from vflow.scores.judges import latent_autocorrelation, latent_distance, latent_norm

Numbers = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Measurements:
    """What a model says of N images; arrays [N], float64."""

    log_prob: Numbers
    """log P by importance sampling, nats."""
    bits: Numbers
    """-log P / (D ln 2), bits/dim."""
    latent_norm: Numbers
    """`scores.latent_norm` of the latents."""
    latent_distance: Numbers
    """`scores.latent_distance` of the latents."""
    latent_autocorrelation: Numbers
    """`scores.latent_autocorrelation` of the latents."""


def measure(
    model: ImageFlow,
    images: Tensor,
    *,
    samples: int = 1,
    batch_size: int = 64,
    seed: int = 0,
    progress: Callable[[int], object] | None = None,
) -> Measurements:
    """Measure images with a model.

    The noise of an image is a function of the seed and its number, so that batches change nothing
    but rounding.

    Args:
        model: A model of images, in evaluation mode.
        images: uint8 [N, C, H, W], anywhere.
        samples: Importance samples an image.
        batch_size: Images x samples at once, about.
        seed: Seed of the noise.
        progress: Called with the number of images after each batch.

    Raises:
        ValueError: If an argument has the wrong type, shape or range.
    """
    require_int("samples", samples, 1)
    require_int("batch_size", batch_size, 1)
    if images.ndim != 4 or not len(images):
        raise ValueError(f"images must have shape [N, C, H, W], N >= 1, got {tuple(images.shape)}")
    found: dict[str, list[Tensor]] = {}
    size = max(1, batch_size // samples)
    for start in range(0, len(images), size):
        numbers = range(start, min(start + size, len(images)))
        batch = images[start : start + size].to(model.device)
        _, log_prob = importance_sample(model, batch, numbers, samples, batch_size, seed)
        latents = _encode(model, batch, numbers, seed)
        flat = torch.cat([part.flatten(1) for part in latents], 1)
        row = {
            "log_prob": log_prob,
            "latent_norm": latent_norm(flat),
            "latent_distance": latent_distance(flat),
            "latent_autocorrelation": torch.stack(
                [latent_autocorrelation(part) for part in latents]
            ).mean(0),
        }
        for name, values in row.items():
            found.setdefault(name, []).append(values.double().cpu())
        if progress is not None:
            progress(len(batch))
    arrays = {name: torch.cat(values).numpy() for name, values in found.items()}
    return Measurements(bits=arrays["log_prob"] / (-model.dims * math.log(2)), **arrays)


@torch.inference_mode()
def _encode(model: ImageFlow, images: Tensor, numbers: range, seed: int) -> tuple[Tensor, ...]:
    """The images' latent, all its tensors, under the noise of their first importance sample."""
    source = torch.Generator(model.device)
    rows = [
        model.draw_noise(1, source.manual_seed(mix(seed, Stream.EVALUATION, number, 0)))
        for number in numbers
    ]
    noise = {name: torch.cat([row[name] for row in rows]) for name in rows[0]}
    latent = model.encode(images, generator=None, **noise)
    return latent if isinstance(latent, tuple) else (latent,)
