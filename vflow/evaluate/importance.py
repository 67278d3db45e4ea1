"""Importance sampling of log P in bounded memory, with noise that batches do not change."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from vflow.models import ImageFlow
from vflow.train.randomness import Stream, mix


@torch.inference_mode()
def importance_sample(
    model: ImageFlow,
    images: Tensor,
    indices: Sequence[int],
    samples: int,
    max_rows: int = 256,
    seed: int = 0,
    progress: Callable[[int], object] | None = None,
) -> tuple[Tensor, Tensor]:
    """The one-sample bound and log P of images (VFlow, Chen et al., 2020, Eq. 3 and 5).

    Args:
        model: A model in evaluation mode.
        images: uint8 [B, C, H, W], on the model's device.
        indices: B numbers that with `seed` determine the images' noise.
        samples: Importance samples S an image.
        max_rows: Rows evaluated at once, which bounds the memory; but never less than B.
        seed: Seed of the noise.
        progress: Called with the number of rows after each pass.

    Returns:
        The mean of the S one-sample bounds [B], and the logarithm of the mean of their
        exponentials [B]; nats, float64.
    """
    chunk = max(1, min(samples, max_rows // len(images)))
    # float64, or a sum over thousands of samples loses what they gain.
    total = torch.zeros(len(images), dtype=torch.float64, device=images.device)
    log_total = torch.full_like(total, -math.inf)
    for start in range(0, samples, chunk):
        numbers = range(start, min(start + chunk, samples))
        noise = _noise(model, indices, numbers, seed)
        rows = images.repeat_interleave(len(numbers), 0)
        terms = model.elbo(rows, generator=None, **noise).double().view(len(images), len(numbers))
        total += terms.sum(1)
        log_total = torch.logaddexp(log_total, terms.logsumexp(1))
        if progress is not None:
            progress(len(rows))
    return total / samples, log_total - math.log(samples)


def _noise(
    model: ImageFlow, indices: Sequence[int], samples: range, seed: int
) -> dict[str, Tensor]:
    """Noise for each sample of each image, the samples of an image next to one another."""
    source = torch.Generator(model.device)
    rows = [
        model.draw_noise(1, source.manual_seed(mix(seed, Stream.EVALUATION, index, sample)))
        for index in indices
        for sample in samples
    ]
    return {name: torch.cat([row[name] for row in rows]) for name in rows[0]}
