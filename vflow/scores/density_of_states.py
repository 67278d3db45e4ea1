"""Density of states: several statistics at once, each held against its density on known data."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vflow.runtime.extras import require

FLOOR = -50.0
"""Least log-density of a statistic: far out a kernel estimate is 0, and knows no more than that."""


class DensityOfStates:
    """DoSE with kernel density estimates (Morningstar et al., 2021).

    Each statistic of an image is judged by how rare its value is among known images, whether it is
    too high or too low; the surprises of all statistics add up. Assumes that the statistics are
    independent, which they are not: what two of them see alike counts twice.

    Args:
        known: Name -> the statistic's values on images of the training distribution, [N].

    Raises:
        ValueError: If there is none, they differ in length, or one has no spread.
        MissingExtra: If scipy is not installed.
    """

    def __init__(self, known: Mapping[str, ArrayLike]) -> None:
        require("scipy", "DensityOfStates")
        from scipy.stats import gaussian_kde

        columns = _columns(known)
        for name, values in columns.items():
            if len(values) < 2 or not np.ptp(values) > 0:
                raise ValueError(f"{name} must have at least 2 values that differ")
        self._densities = {name: gaussian_kde(values) for name, values in columns.items()}

    def score(self, measured: Mapping[str, ArrayLike]) -> NDArray[np.float64]:
        """Minus the sum of the statistics' log-densities, [N].

        Raises:
            ValueError: If the statistics are not those of the known images.
        """
        columns = _columns(measured)
        if columns.keys() != self._densities.keys():
            raise ValueError(
                f"statistics must be {', '.join(sorted(self._densities))}, "
                f"got {', '.join(sorted(columns))}"
            )
        with np.errstate(divide="ignore"):
            return -sum(
                (
                    np.maximum(FLOOR, self._densities[name].logpdf(values))
                    for name, values in columns.items()
                ),
                start=np.zeros(()),
            )


def _columns(statistics: Mapping[str, ArrayLike]) -> dict[str, NDArray[np.float64]]:
    columns = {name: np.asarray(v, dtype=np.float64) for name, v in statistics.items()}
    shapes = {values.shape for values in columns.values()}
    if len(shapes) != 1 or any(len(shape) != 1 for shape in shapes):
        raise ValueError(f"statistics must be of one shape [N], got {sorted(shapes)}")
    return columns
