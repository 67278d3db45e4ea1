"""Importance sampling of log P in bounded memory, with noise that batches do not change."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from vflow.densities import log_mean_exp
from vflow.io.fields import plain, require_int
from vflow.models import ImageFlow
from vflow.runtime.randomness import Stream, mix


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

    Raises:
        ValueError: If a number is out of range, or there are not as many indices as images.
    """
    samples, max_rows, seed = plain(samples), plain(max_rows), plain(seed)
    require_int("samples", samples, 1)
    require_int("max_rows", max_rows, 1)
    require_int("seed", seed, 0)
    indices = [int(index) for index in indices]
    if len(indices) != len(images) or not indices:
        raise ValueError(
            f"indices must be as many as images, at least 1, got {len(indices)} and {len(images)}"
        )
    chunk = max(1, min(samples, max_rows // len(images)))

    def bound(rows: Tensor, numbers: range) -> Tensor:
        elbo = model.elbo(rows, generator=None, **_noise(model, indices, numbers, seed))
        if progress is not None:
            progress(len(rows))
        return elbo

    return log_mean_exp(bound, images, samples, chunk)


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
