"""The masses of the standard normal distribution's bins, in whole numbers: the same everywhere."""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray

MASS_BITS = 20
FINE, COARSE, NEAR, FAR = 64, 4, 4, 6  # bins a unit up to NEAR, bins a unit from there up to FAR
_POINT = 160  # bits after the point


@functools.cache
def normal_starts() -> NDArray[np.uint32]:
    """Where each bin's mass begins, of 2^20 in all: the bins in order, then the escape; [530].

    The bins are 1/64 wide up to 4 and 1/4 wide from there up to 6, on both sides; the escape, of
    mass 1, is for what is further out. A bin's mass is at least 1.
    """
    edges = [
        *range(-FAR * FINE, -NEAR * FINE, FINE // COARSE),
        *range(-NEAR * FINE, NEAR * FINE),
        *range(NEAR * FINE, FAR * FINE + 1, FINE // COARSE),
    ]
    room = (1 << MASS_BITS) - len(edges)  # a mass of 1 for each bin and the escape, and the rest
    below = [_cdf(edge) for edge in edges]
    starts = [((value * room) >> _POINT) + index for index, value in enumerate(below)]
    starts[0], starts[-1] = 0, (1 << MASS_BITS) - 1
    return np.array([*starts, 1 << MASS_BITS], dtype=np.uint32)


@functools.cache
def _cdf(edge: int) -> int:
    """Phi(edge / 64) times 2^160, by the Taylor series of its integral."""
    x = (edge << _POINT) // FINE
    square = (x * x) >> _POINT
    term, total, n = x, x, 0
    while term not in (0, -1):
        n += 1
        term = -((term * square) >> _POINT) // (2 * n)
        total += term // (2 * n + 1)
    return (1 << (_POINT - 1)) + ((total << _POINT) // _root_of_two_pi())


@functools.cache
def _root_of_two_pi() -> int:
    """sqrt(2 pi) times 2^160, with pi by Machin's formula."""

    def arctan_of_one_over(n: int) -> int:
        term = total = (1 << _POINT) // n
        k = 1
        while term:
            term //= n * n
            total += (-term if k % 2 else term) // (2 * k + 1)
            k += 1
        return total

    pi = 4 * (4 * arctan_of_one_over(5) - arctan_of_one_over(239))
    low, high = 0, 4 << _POINT
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if middle * middle <= (2 * pi) << _POINT else (low, middle)
    return low
