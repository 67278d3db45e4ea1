"""From scores to decisions: thresholds at a stated false-positive rate, and how well they tell."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vflow.runtime.extras import require


@dataclass(frozen=True, kw_only=True)
class Threshold:
    """A score above which an image is said not to belong."""

    value: float
    false_positive_rate: float
    """Share of held-out images of the training distribution that were to lie above it."""
    held_out: int
    """Number of those images."""

    def flags(self, scores: ArrayLike) -> NDArray[np.bool_]:
        """Which of the images [N] are said not to belong."""
        return np.asarray(scores, dtype=np.float64) > self.value


def threshold_at(scores: ArrayLike, false_positive_rate: float) -> Threshold:
    """The least threshold that flags at most that share of images like the held-out ones.

    The conformal quantile: a new image of the same distribution lies above it with at most that
    probability, whatever the distribution is.

    Args:
        scores: Scores of held-out images of the training distribution, [N]; what a score was
            fitted on must not be among them.
        false_positive_rate: In (0, 1); at least 1 / (N + 1), or N images cannot tell.

    Raises:
        ValueError: If the rate is out of range, or a score is not finite.
    """
    values = np.sort(_finite("scores", scores))
    n = len(values)
    if not 1 / (n + 1) <= false_positive_rate < 1:
        raise ValueError(
            f"false_positive_rate must be from 1/{n + 1} (of {n} held-out images) to below 1, "
            f"got {false_positive_rate!r}"
        )
    index = math.ceil((n + 1) * (1 - false_positive_rate) - 1e-9) - 1
    return Threshold(
        value=float(values[index]), false_positive_rate=false_positive_rate, held_out=n
    )


def auroc(known: ArrayLike, other: ArrayLike) -> float:
    """Area under the receiver operating characteristic.

    Args:
        known: Scores of images that belong, [N].
        other: Scores of images that do not, [M].

    Returns:
        The probability that one of `other` scores above one of `known`, ties counted half: 0.5
        tells nothing, below it the order is reversed.

    Raises:
        ValueError: If there are no scores, or one is not finite.
        MissingExtra: If scipy is not installed.
    """
    require("scipy", "auroc")
    from scipy.stats import rankdata

    first, second = _finite("known", known), _finite("other", other)
    ranks = rankdata(np.concatenate([first, second]))[len(first) :]
    wins = ranks.sum() - len(second) * (len(second) + 1) / 2
    return float(wins / (len(first) * len(second)))


def false_positive_rate_at(known: ArrayLike, other: ArrayLike, true_positive_rate: float) -> float:
    """Share of `known` flagged where that share of `other` is ("FPR at 95 % TPR").

    Args:
        known: Scores of images that belong, [N].
        other: Scores of images that do not, [M].
        true_positive_rate: In (0, 1].
    """
    if not 0 < true_positive_rate <= 1:
        raise ValueError(f"true_positive_rate must be in (0, 1], got {true_positive_rate!r}")
    first, second = _finite("known", known), np.sort(_finite("other", other))
    least = second[len(second) - math.ceil(true_positive_rate * len(second) - 1e-9)]
    return float((first >= least).mean())


def _finite(name: str, scores: ArrayLike) -> NDArray[np.float64]:
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 1 or not len(values):
        raise ValueError(f"{name} must have shape [N], N >= 1, got {values.shape}")
    if not np.isfinite(values).all():
        raise ValueError(f"{name} must be finite, got NaN or infinity")
    return values
