"""What initialisation does about a first batch that does not vary."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from vflow.flows.actnorm import has_spread

LEAST_SPREAD = 2.0
"""Standard deviation, in pixel values, below which an element of the images tells nothing."""


def with_spread(images: Tensor) -> Tensor:
    """Images to initialise from: where an element hardly varies over the batch, noise instead.

    Normalised by its own spread, such an element would make a pixel value's difference in a later
    image cost thousands of nats. Noise of all pixel values, always the same, stands for "anything".

    Args:
        images: uint8 [B, C, H, W].

    Returns:
        Alike; the very images if all their elements vary.
    """
    constant = images.double().std(0, correction=0) < LEAST_SPREAD
    if not constant.any():
        return images
    if constant.all():
        warnings.warn("the images to initialise from are all alike: noise is taken", stacklevel=4)
    else:
        channels = constant.flatten(1).all(1).nonzero().flatten().tolist()
        if channels:
            warnings.warn(
                f"the images to initialise from do not vary in channel {_list(channels)}: noise is "
                "taken for it",
                stacklevel=4,
            )
    source = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, images.shape, generator=source, dtype=torch.uint8)
    return torch.where(constant, noise.to(images.device), images)


def vectors_with_spread(x: Tensor) -> Tensor:
    """`with_spread` for vectors x [B, D]: an element that is the same in all rows becomes noise.

    The noise has the mean deviation of the other elements, or 1 where there is none.
    """
    variance, mean = torch.var_mean(x, dim=0, correction=0)
    varies = has_spread(variance, mean)
    if varies.all():
        return x
    constant = (~varies).nonzero().flatten().tolist()
    warnings.warn(
        f"the x to initialise from does not vary in element {_list(constant)}: noise is taken",
        stacklevel=4,
    )
    deviation = variance[varies].mean().sqrt() if varies.any() else 1.0
    source = torch.Generator().manual_seed(0)
    noise = torch.randn(x.shape, generator=source, dtype=x.dtype).to(x.device)
    return torch.where(varies, x, mean + deviation * noise)


def _list(numbers: list[int]) -> str:
    shown = ", ".join(map(str, numbers[:8]))
    return shown + (", ..." if len(numbers) > 8 else "")
