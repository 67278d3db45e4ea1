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
            samples: a draw of the bound for each row [B * n], or of S models' [B * n, S].
        x: [B, ...].
        samples: Samples of each x.
        chunk: Samples of each x evaluated at once; by default all.

    Returns:
        The mean of the bounds, and the logarithm of the mean of their exponentials, [B] or [B, S]:
        a lower bound in expectation, which rises with `samples`. Nats, float64, or a sum over
        thousands of terms near -7000 loses what they gain.
    """
    total: Tensor | float = 0.0
    log_total = torch.full((), -math.inf, dtype=torch.float64, device=x.device)
    for start in range(0, samples, chunk or samples):
        numbers = range(start, min(start + (chunk or samples), samples))
        rows = x.repeat_interleave(len(numbers), 0)
        terms = bound(rows, numbers).double().unflatten(0, (x.shape[0], len(numbers)))
        total = total + terms.sum(1)
        log_total = torch.logaddexp(log_total, terms.logsumexp(1))
    assert isinstance(total, Tensor)
    return total / samples, log_total - math.log(samples)


def copies(x: Tensor | None, count: int) -> Tensor | None:
    """x [B, ...], each beside its copies, as `log_mean_exp` has its rows [B * count, ...]."""
    return None if x is None else x.repeat_interleave(count, 0)
