"""The scores themselves, as plain functions of what was measured; larger means less at home."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

Numbers = NDArray[np.float64]


def complexity_corrected(bits: ArrayLike, code_bits: ArrayLike) -> Numbers:
    """How much worse the model does than an ordinary codec (Serra et al., 2020).

    Assumes that the codec stands for how simple an image is in itself, so that the difference is
    what the model knows beyond that: a likelihood ratio against a universal model. Fails for
    images of a kind that both know equally well or badly, such as near classes of the same kind
    of photograph, and depends on the codec.

    Args:
        bits: -log P of each image, bits/dim, [N].
        code_bits: Length of its code, bits/dim, [N].

    Returns:
        [N], bits/dim.
    """
    return _numbers("bits", bits) - _numbers("code_bits", code_bits)


def typicality(bits: ArrayLike, entropy: float) -> Numbers:
    """Distance of -log P from its mean on training data, either way (Nalisnick et al., 2019).

    Assumes that images of the training distribution all have about the same likelihood. That holds
    for many independent dimensions and badly for photographs, whose likelihoods differ widely;
    images of another kind with just the usual likelihood pass.

    Args:
        bits: -log P of each image, bits/dim, [N].
        entropy: Mean of the same over training images, bits/dim.

    Returns:
        [N], bits/dim.
    """
    return np.abs(_numbers("bits", bits) - entropy)


def typicality_one_sided(bits: ArrayLike, entropy: float) -> Numbers:
    """How much less likely an image is than training images are on the mean.

    It ranks as plain likelihood does and shares its fault: images simpler than the training data
    score as very much at home. Here as the baseline.

    Args:
        bits: -log P of each image, bits/dim, [N].
        entropy: Mean of the same over training images, bits/dim.

    Returns:
        [N], bits/dim.
    """
    return _numbers("bits", bits) - entropy


def batch_typicality(bits: ArrayLike, entropy: float, size: int) -> Numbers:
    """`typicality` of batches of images that are known to be of one kind (Nalisnick et al., 2019).

    The mean over a batch varies less than its members, so that the test grows sharper with its
    size. Assumes that a batch is all of one kind.

    Args:
        bits: -log P of each image, bits/dim, [N], in the batches' order.
        entropy: Mean of the same over training images, bits/dim.
        size: Images M in a batch; what is left over at the end is left out.

    Returns:
        [N // M], bits/dim.

    Raises:
        ValueError: If there is no whole batch.
    """
    values = _numbers("bits", bits)
    if not 1 <= size <= len(values):
        raise ValueError(f"size must be from 1 to the {len(values)} images, got {size}")
    whole = values[: len(values) // size * size].reshape(-1, size)
    return np.abs(whole.mean(1) - entropy)


def likelihood_ratio(bits: ArrayLike, background_bits: ArrayLike) -> Numbers:
    """How much worse the model does than a second one (Ren et al., 2019).

    Assumes that the second model has learned what is common to all images, the background, and not
    what marks these: a model of many kinds of photograph, or of perturbed data. As good as that
    second model is chosen.

    Args:
        bits: -log P by the model, bits/dim, [N].
        background_bits: -log P by the second one, bits/dim, [N].

    Returns:
        [N], bits/dim.
    """
    return _numbers("bits", bits) - _numbers("background_bits", background_bits)


def waic(bits: ArrayLike) -> Numbers:
    """Mean of -log P over an ensemble plus its variance (Choi et al., 2018).

    Assumes that models trained apart agree on what they were trained on and differ elsewhere. Its
    mean still ranks simple images as at home, and checkpoints of one run differ too little for
    the variance to make up for it.

    Args:
        bits: -log P by each of M >= 2 models, bits/dim, [M, N].

    Returns:
        [N].
    """
    values = _ensemble(bits)
    return values.mean(0) + values.var(0, ddof=1)


def disagreement(bits: ArrayLike) -> Numbers:
    """Standard deviation of -log P over an ensemble: the second half of `waic` alone.

    Args:
        bits: -log P by each of M >= 2 models, bits/dim, [M, N].

    Returns:
        [N], bits/dim.
    """
    return _ensemble(bits).std(0, ddof=1)


def latent_norm(latents: Tensor) -> Tensor:
    """How far |eps|^2 is from what a standard normal has, either way, in standard deviations.

    Of a perfect model |eps|^2 follows a chi-square distribution of n degrees of freedom. Fails
    where an image's latent has the usual length but structure in it.

    Args:
        latents: [B, ...], n numbers each.

    Returns:
        [B].
    """
    flat = latents.flatten(1).double()
    n = flat.shape[1]
    return ((flat.square().sum(1) - n) / math.sqrt(2 * n)).abs()


def latent_distance(latents: Tensor) -> Tensor:
    """Kolmogorov-Smirnov distance of an image's latent values from N(0, 1).

    Assumes that the latent's values are independent, and sees their histogram only, not where
    they stand.

    Args:
        latents: [B, ...], n numbers each.

    Returns:
        [B], in [0, 1]; about 0.87 / sqrt(n) for a standard normal.
    """
    values = latents.flatten(1).double().sort(1).values
    n = values.shape[1]
    cdf = torch.special.ndtr(values)
    steps = torch.arange(n + 1, dtype=cdf.dtype, device=cdf.device) / n
    above, below = steps[1:] - cdf, cdf - steps[:-1]
    return torch.maximum(above.amax(1), below.amax(1))


def latent_autocorrelation(latents: Tensor) -> Tensor:
    """Correlation of neighbouring latent values: a test for white noise.

    Of a perfect model the latent is white noise; of images it does not know, edges and shapes stay
    visible in it.

    Args:
        latents: [B, C, H, W].

    Returns:
        [B]: mean over both directions of |correlation| x sqrt(number of pairs); about 0.8 for
        white noise.
    """
    values = latents.double()
    values = values - values.mean((2, 3), keepdim=True)
    power = values.square().flatten(1).mean(1).clamp_min(torch.finfo(torch.float64).tiny)
    found = []
    for first, second in (
        (values[..., :-1], values[..., 1:]),
        (values[..., :-1, :], values[..., 1:, :]),
    ):
        products = (first * second).flatten(1)
        if products.shape[1]:
            found.append((products.mean(1) / power).abs() * math.sqrt(products.shape[1]))
    if not found:
        raise ValueError(f"latents must be at least 1x2 or 2x1, got {tuple(latents.shape)}")
    return torch.stack(found).mean(0)


def _ensemble(bits: ArrayLike) -> Numbers:
    values = np.asarray(bits, dtype=np.float64)
    if values.ndim != 2 or len(values) < 2:
        raise ValueError(f"bits must have shape [M, N] with M >= 2 models, got {values.shape}")
    return values


def _numbers(name: str, values: ArrayLike) -> Numbers:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1:
        raise ValueError(f"{name} must have shape [N], got {array.shape}")
    return array
