"""Bounds of log P, their importance sampling and estimates; batches do not change the noise."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from vflow.densities.importance import copies, log_mean_exp
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
    indices = _checked(images, indices, max_rows, seed)
    chunk = max(1, min(samples, max_rows // len(images)))
    seen = model.features(images)

    def bound(rows: Tensor, numbers: range) -> Tensor:
        noise = noise_of_samples(model.draw_noise, model.device, indices, numbers, seed)
        elbo = model.elbo(rows, generator=None, features=copies(seen, len(numbers)), **noise)
        if progress is not None:
            progress(len(rows))
        return elbo

    return log_mean_exp(bound, images, samples, chunk)


@torch.inference_mode()
def estimate_bound(
    model: ImageFlow,
    images: Tensor,
    indices: Sequence[int],
    draws: int,
    max_rows: int = 256,
    seed: int = 0,
    progress: Callable[[int], object] | None = None,
) -> tuple[Tensor, Tensor]:
    """Unbiased estimates of the expected bounds of images, and their standard errors.

    For models with residual blocks, whose log-determinants are estimated too. An estimate may lie
    above log P, and exponentials of it are biased upwards: there is no importance sampling by it.

    Args:
        model: A model in evaluation mode.
        images: uint8 [B, C, H, W], on the model's device.
        indices: B numbers that with `seed` determine the images' noise.
        draws: Draws of all noise an image, at least 2.
        max_rows: Rows evaluated at once, which bounds the memory; but never less than B.
        seed: Seed of the noise.
        progress: Called with the number of rows after each pass.

    Returns:
        The mean of an image's draws [B], and its standard error [B]; nats, float64.

    Raises:
        ValueError: If a number is out of range, there are not as many indices as images, or the
            model has no residual blocks: its bounds are exact.
    """
    draws, max_rows, seed = plain(draws), plain(max_rows), plain(seed)
    require_int("draws", draws, 2)
    indices = _checked(images, indices, max_rows, seed)
    require_estimates(model)
    chunk, found = max(1, min(draws, max_rows // len(images))), []
    for start in range(0, draws, chunk):
        numbers = range(start, min(start + chunk, draws))
        noise = noise_of_samples(model.draw_training_noise, model.device, indices, numbers, seed)
        rows = model(images.repeat_interleave(len(numbers), 0), **noise)
        found.append(rows.double().unflatten(0, (len(images), len(numbers))))
        if progress is not None:
            progress(len(rows))
    terms = torch.cat(found, 1)
    return terms.mean(1), terms.std(1) / draws**0.5


def require_estimates(model: ImageFlow) -> None:
    """Raise ValueError unless a model's bounds can be estimated, as those of Residual Flows."""
    if not model.density.estimate_shapes():
        raise ValueError(
            f"estimate must be left out for a {type(model).__name__} without residual blocks, "
            "whose bound is exact"
        )


def _checked(images: Tensor, indices: Sequence[int], max_rows: int, seed: int) -> list[int]:
    require_int("max_rows", max_rows, 1)
    require_int("seed", seed, 0)
    numbers = [int(index) for index in indices]
    if len(numbers) != len(images) or not numbers:
        raise ValueError(
            f"indices must be as many as images, at least 1, got {len(numbers)} and {len(images)}"
        )
    return numbers


def noise_of_samples(
    draw: Callable[[int, torch.Generator], dict[str, Tensor]],
    device: torch.device,
    indices: Sequence[int],
    samples: range,
    seed: int,
) -> dict[str, Tensor]:
    """Noise for each sample of each image, the samples of an image next to one another."""
    source = torch.Generator(device)
    rows = [
        draw(1, source.manual_seed(mix(seed, Stream.EVALUATION, index, sample)))
        for index in indices
        for sample in samples
    ]
    return {name: torch.cat([row[name] for row in rows]) for name in rows[0]}
