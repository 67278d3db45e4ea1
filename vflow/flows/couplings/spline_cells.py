"""The spline coupling's coding rule: where cells of whole numbers land under the spline.

All of it is in float64, each product and sum rounded on its own and in one order, with the coder's
own exponential and logarithm: the same bits on every machine.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vflow.ops import exact
from vflow.ops.coder import CELL_BITS, GRID, GRID_BITS, Coder

MOST_BOUND = 1024.0
"""Beyond, float64 is too coarse for the grid."""
CELLS_A_UNIT = 1 << (GRID_BITS - CELL_BITS)
STRIDE = (1 << CELL_BITS) + 2
"""From one cell's landing to the next where the spline is the identity.

Cell c lands 2 c further than the spline says, so that none vanishes where that is flat.
"""


class SplineCells:
    """A rational-quadratic spline of each element (Durkan et al., 2019).

    Args:
        params: float [..., 3 bins - 1], as of `SplineCoupling`.
        bins: Pieces.
        bound: Half the side of the square.
        least_bin: The least share of a piece.
        least_slope: The least slope at a knot.

    Raises:
        ValueError: If the bound is too large, or a parameter is not finite.
    """

    def __init__(
        self, params: Tensor, bins: int, bound: float, least_bin: float, least_slope: float
    ) -> None:
        if bound > MOST_BOUND:
            raise ValueError(f"a spline's bound must be at most {MOST_BOUND:g} to be coded")
        if not params.isfinite().all():
            raise ValueError("a spline's parameters must be finite to be coded")
        widths, heights, inner = params.double().split([bins, bins, bins - 1], -1)
        self._bound = bound
        self._xs = _knots(widths, bound, least_bin)
        self._ys = _knots(heights, bound, least_bin)
        self._slopes = _slopes(inner, least_slope)
        self._reach = math.ceil(bound * CELLS_A_UNIT)

    def code(self, x: Tensor, coder: Coder) -> Tensor:
        """Whole numbers along the spline, linear within cells of 2^-14."""
        cell = x >> CELL_BITS
        lower = self._landing(cell)
        return coder.cells(x, lower, self._landing(cell + 1) - lower, CELL_BITS)

    def code_inverse(self, y: Tensor, coder: Coder) -> Tensor:
        """Undo `code`: cells are found by bisection, for they land in their order."""
        low = torch.full_like(y, -self._reach)
        high = torch.full_like(y, self._reach)
        for _ in range((2 * self._reach).bit_length()):
            middle = (low + high) >> 1
            beyond = self._landing(middle) <= y
            low, high = torch.where(beyond, middle, low), torch.where(beyond, high, middle)
        far = (y < -self._reach * STRIDE) | (y >= self._reach * STRIDE)
        cell = torch.where(far, torch.div(y, STRIDE, rounding_mode="floor"), low)
        lower = self._landing(cell)
        return coder.cells_inverse(y, cell, lower, self._landing(cell + 1) - lower, CELL_BITS)

    def _landing(self, cell: Tensor) -> Tensor:
        """Where the lower ends of cells land."""
        x = (cell.double() / CELLS_A_UNIT).clamp(-self._bound, self._bound)
        piece = torch.zeros_like(cell)
        for knot in range(1, self._xs.shape[-1] - 1):
            piece += x >= self._xs[..., knot]

        def at(values: Tensor, shift: int = 0) -> Tensor:
            return values.gather(-1, (piece + shift).unsqueeze(-1)).squeeze(-1)

        x0, y0, first, second = at(self._xs), at(self._ys), at(self._slopes), at(self._slopes, 1)
        width, height = at(self._xs, 1) - x0, at(self._ys, 1) - y0
        slope, t = height / width, (x - x0) / width
        both = t * (1 - t)
        rise = height * (slope * (t * t) + first * both)
        y = y0 + rise / (slope + (first + second - 2 * slope) * both)
        # Outside of the square, and of what float64 holds exactly, the spline is the identity.
        inside = (cell > -self._reach) & (cell < self._reach)
        return torch.where(inside, torch.round(y * GRID).long(), cell << CELL_BITS) + 2 * cell


def _knots(raw: Tensor, bound: float, least: float) -> Tensor:
    """Raw widths or heights [..., bins] -> knots [..., bins + 1] from -bound to bound."""
    bins = raw.shape[-1]
    weights = exact.function("exp", raw - raw.amax(-1, keepdim=True)).unbind(-1)
    total = weights[0]
    for weight in weights[1:]:
        total = total + weight
    end = torch.full_like(total, bound)
    knots, reached = [-end], torch.zeros_like(total)
    for weight in weights[:-1]:
        reached = reached + (least + (1 - least * bins) * (weight / total))
        knots.append(bound * (2 * reached - 1))
    return torch.stack([*knots, end], -1)


def _slopes(raw: Tensor, least: float) -> Tensor:
    """Raw inner slopes [..., bins - 1] -> slopes at the knots [..., bins + 1], the ends' 1."""
    of_one = torch.full((1,), 1 - least, dtype=torch.float64)
    value = raw + exact.function("log", exact.function("exp", of_one) - 1)
    softplus = value.clamp_min(0) + exact.function("log", 1 + exact.function("exp", -value.abs()))
    one = torch.ones_like(raw[..., :1])
    return torch.cat([one, least + softplus, one], -1)
