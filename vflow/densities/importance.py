"""Importance sampling of log p(x): the logarithm of a mean of exponentials, in bounded memory."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor


def log_mean_exp(
    bound: Callable[[Tensor, range], Tensor], x: Tensor, samples: int, chunk: int | None = None
) -> tuple[Tensor, Tensor]:
    """The one-sample bounds' mean, and log p(x) by importance sampling.

    (VFlow, Chen et al., 2020, Eq. 3 and 5; Burda et al., 2016.)

    Args:
        bound: Given rows [B * n, ...], each x beside its n copies, and the numbers of those n
            samples: one draw of the bound for each row [B * n].
        x: [B, ...].
        samples: Samples S of each x.
        chunk: Samples of each x evaluated at once; by default all.

    Returns:
        The mean of the S bounds [B], and the logarithm of the mean of their exponentials [B]: a
        lower bound in expectation, which rises with S. Nats, float64, or a sum over thousands of
        terms near -7000 loses what they gain.
    """
    total = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    log_total = torch.full_like(total, -math.inf)
    for start in range(0, samples, chunk or samples):
        numbers = range(start, min(start + (chunk or samples), samples))
        rows = x.repeat_interleave(len(numbers), 0)
        terms = bound(rows, numbers).double().view(len(x), len(numbers))
        total = total + terms.sum(1)
        log_total = torch.logaddexp(log_total, terms.logsumexp(1))
    return total / samples, log_total - math.log(samples)
