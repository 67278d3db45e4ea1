"""The coder: stacks of bits, and maps of whole numbers that take bits from them and give bits back.

A continuous value is a whole number over 2^32. An invertible layer becomes an invertible map of
whole numbers and bits: where it stretches, it takes bits, the new value's lower digits; where it
shrinks, it gives back those that no longer fit. The stack grows by minus the log-determinant, and
what is left at the end of a flow is pushed under the standard normal distribution: bits-back coding
with the uniform coder and the interpolation within cells of iFlow (Zhang et al., 2021).

`x` methods and their `x_inverse` undo one another, numbers and bits alike. Encoding runs a model by
the former, decoding runs it backwards by the latter.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vflow.ops import exact
from vflow.ops.normal_masses import normal_starts

GRID_BITS = 32
"""Bits after the point of a value."""
CELL_BITS = 18
"""Bits within a cell, over which a coupling's transform counts as linear: a width of 2^-14."""
LANES = 8
"""Stacks among which an array's numbers are shared, whatever the number of threads."""
SLOPE_BITS = 20
"""Bits of a scale."""
GRID = float(1 << GRID_BITS)
MOST_OFFSET = 1 << 18
LEAST_STATE = 1 << 32
START_STATE = LEAST_STATE + 0x6A09E667
"""Of a stack with nothing on it; a state of zeros would be popped as a far tail."""


class _Struct(ctypes.Structure):
    """struct vflow_coder."""

    _fields_ = (
        ("lanes", ctypes.c_int64),
        ("capacity", ctypes.c_int64),
        ("states", ctypes.c_void_p),
        ("words", ctypes.c_void_p),
        ("counts", ctypes.c_void_p),
        ("lent", ctypes.c_void_p),
    )


@dataclass(frozen=True)
class Lane:
    """One stack: its state and, from the bottom, its words, uint32."""

    state: int
    words: NDArray[np.uint32]


class Coder:
    """Stacks of bits.

    Args:
        lanes: What is on them at first; by default nothing.
        lend: Whether a stack that runs out is lent bits (a fixed sequence of them): an encoder's.
            If not, running out is an error.
    """

    def __init__(self, lanes: list[Lane] | None = None, *, lend: bool) -> None:
        lanes = [Lane(START_STATE, np.empty(0, np.uint32))] * LANES if lanes is None else lanes
        assert len(lanes) == LANES
        self._counts = np.array([len(lane.words) for lane in lanes], np.int64)
        self._states = np.array([lane.state for lane in lanes], np.uint64)
        self._words = np.zeros((LANES, int(self._counts.max()) + 1024), np.uint32)
        for row, lane in zip(self._words, lanes, strict=True):
            row[: len(lane.words)] = lane.words
        self._lent = np.zeros(LANES, np.int64) if lend else None
        self._plans: dict[Any, Any] = {}

    @property
    def lanes(self) -> list[Lane]:
        """What is on the stacks now."""
        return [
            Lane(int(state), row[:count].copy())
            for state, row, count in zip(self._states, self._words, self._counts, strict=True)
        ]

    @property
    def bits(self) -> float:
        """Bits on the stacks, less those that were lent."""
        lent = 0 if self._lent is None else self._lent.sum()
        return float(
            np.log2(self._states.astype(np.float64)).sum() + 32 * (self._counts.sum() - lent)
        )

    @property
    def lent_words(self) -> NDArray[np.int64]:
        """Words that each stack was lent, [LANES]."""
        return np.zeros(LANES, np.int64) if self._lent is None else self._lent.copy()

    def plan(self, key: Any, make: Callable[[], Any]) -> Any:
        """What `make` gives, made once for each key: a layer's constants."""
        if key not in self._plans:
            self._plans[key] = make()
        return self._plans[key]

    # Numbers of a known distribution

    def push_bits(self, x: Tensor, bits: int) -> None:
        """Push whole numbers below 2^bits, bits at most 32."""
        x = x.contiguous()
        self._call("push_bits", x.numel(), exact.pointer(x), x.numel(), bits)

    def pop_bits(self, shape: tuple[int, ...], bits: int) -> Tensor:
        """Pop whole numbers below 2^bits."""
        x = torch.empty(shape, dtype=torch.int64)
        self._call("pop_bits", 0, exact.pointer(x), x.numel(), bits)
        return x

    def push_normal(self, x: Tensor) -> None:
        """Push values under N(0, 1)."""
        x, starts = x.contiguous(), normal_starts()
        table = ctypes.c_void_p(starts.ctypes.data)
        self._call("push_normal", 2 * x.numel(), exact.pointer(x), x.numel(), GRID_BITS, table)

    def pop_normal(self, shape: tuple[int, ...]) -> Tensor:
        """Pop values of N(0, 1)."""
        x, starts = torch.empty(shape, dtype=torch.int64), normal_starts()
        table = ctypes.c_void_p(starts.ctypes.data)
        self._call("pop_normal", 0, exact.pointer(x), x.numel(), GRID_BITS, table)
        return x

    # Maps

    def mixture(self, x: Tensor, params: Tensor, squash: bool) -> Tensor:
        """`vflow.ops.mixlogistic` of x [B, ..., C]."""
        lower, width = exact.mixture_cells(x, params, squash, GRID_BITS, CELL_BITS)
        return self.cells(x, lower, width, CELL_BITS)

    def mixture_inverse(self, y: Tensor, params: Tensor, squash: bool) -> Tensor:
        """The inverse of `mixture`."""
        cell, lower, width = exact.mixture_find(y, params, squash, GRID_BITS, CELL_BITS)
        return self.cells_inverse(y, cell, lower, width, CELL_BITS)

    def table(self, x: Tensor, edges: Tensor, cell_bits: int, first: int = 0) -> Tensor:
        """A fixed increasing function of x, linear between the ends of cells.

        Args:
            x: Whole numbers of any shape.
            edges: int64, increasing: where the cells' lower ends land, and the last one's upper.
            cell_bits: Bits within a cell.
            first: The first cell's number.

        Raises:
            ValueError: If a number is in none of the cells.
        """
        cell = (x >> cell_bits) - first
        if x.numel() and (cell.min() < 0 or cell.max() >= len(edges) - 1):
            raise ValueError("a value is outside of what its layer can code")
        return self.cells(x, edges[cell], edges[cell + 1] - edges[cell], cell_bits)

    def table_inverse(self, y: Tensor, edges: Tensor, cell_bits: int, first: int = 0) -> Tensor:
        """The inverse of `table`."""
        y = y.contiguous()
        cell = torch.bucketize(y, edges, right=True) - 1
        if y.numel() and (cell.min() < 0 or cell.max() >= len(edges) - 1):
            raise ValueError("a value is outside of what its layer can code")
        lower = edges[cell]
        return self.cells_inverse(y, cell + first, lower, edges[cell + 1] - lower, cell_bits)

    def affine(self, x: Tensor, scale: Affine) -> Tensor:
        """x times a scale, plus an offset, each [B, ..., C] or without B."""
        x, y = x.contiguous(), torch.empty_like(x, memory_format=torch.contiguous_format)
        arrays = [exact.pointer(tensor) for tensor in (x, *scale.arrays, y)]
        self._call("scale", 2 * x.numel(), *arrays, x.numel(), scale.period)
        return y

    def affine_inverse(self, y: Tensor, scale: Affine) -> Tensor:
        """The inverse of `affine`."""
        y, x = y.contiguous(), torch.empty_like(y, memory_format=torch.contiguous_format)
        arrays = [exact.pointer(tensor) for tensor in (y, *scale.arrays, x)]
        self._call("scale_inverse", y.numel(), *arrays, y.numel(), scale.period)
        return x

    def cells(self, x: Tensor, lower: Tensor, width: Tensor, cell_bits: int) -> Tensor:
        """Numbers x to where their cells land, linear within each.

        Args:
            x: Whole numbers; the bits above `cell_bits` say the cell.
            lower: int64 like x, where the cell's lower end lands.
            width: int64 like x, of what the cell becomes; from 1 to 2^31.
            cell_bits: Bits within a cell.

        Raises:
            ValueError: If a width is not.
        """
        x, y = x.contiguous(), torch.empty_like(x, memory_format=torch.contiguous_format)
        arrays = [exact.pointer(tensor) for tensor in (x, lower, width, y)]
        self._call("cells", x.numel(), *arrays, x.numel(), cell_bits)
        return y

    def cells_inverse(
        self, y: Tensor, cell: Tensor, lower: Tensor, width: Tensor, cell_bits: int
    ) -> Tensor:
        """The inverse of `cells`, given the cells' numbers.

        Raises:
            ValueError: If a number is not in its cell's image.
        """
        y, x = y.contiguous(), torch.empty_like(y, memory_format=torch.contiguous_format)
        arrays = [exact.pointer(tensor) for tensor in (y, cell, lower, width, x)]
        self._call("cells_inverse", y.numel(), *arrays, y.numel(), cell_bits)
        return x

    def _call(self, function: str, pushes: int, *arguments: Any) -> None:
        """Call a function that pushes at most so many words, with room for them in every lane."""
        needed = int(self._counts.max()) + 4 * (pushes // LANES + 1)
        if needed > self._words.shape[1]:
            words = np.zeros((LANES, 2 * needed), np.uint32)
            words[:, : self._words.shape[1]] = self._words
            self._words = words
        lent = None if self._lent is None else self._lent.ctypes.data
        addresses = (self._states.ctypes.data, self._words.ctypes.data, self._counts.ctypes.data)
        struct = _Struct(LANES, self._words.shape[1], *addresses, lent)
        exact.call(f"coder_{function}", ctypes.byref(struct), *arguments)


class Affine:
    """A scale and an offset as the coder takes them: a fraction, and a whole number.

    Args:
        slope: float64, not 0.
        offset: float64 of the same shape.

    Raises:
        ValueError: If a slope or an offset is beyond what can be coded.
    """

    def __init__(self, slope: Tensor, offset: Tensor) -> None:
        mantissa, exponent = torch.frexp(slope)
        factor = torch.round(mantissa * (1 << SLOPE_BITS))
        # A mantissa just below 1 rounds up to it.
        whole = factor.abs() == 1 << SLOPE_BITS
        factor = torch.where(whole, factor / 2, factor)
        shift = SLOPE_BITS - exponent.long() - whole.long()
        good = slope.isfinite() & (slope != 0) & (shift >= 0) & (shift <= 62)
        if not (good & (offset.abs() < MOST_OFFSET)).all():
            raise ValueError(
                "a scale must be within 2^-42 and 2^20, an offset below 2^18 to be coded, "
                f"got {slope.abs().min().item():g} to {slope.abs().max().item():g} and "
                f"{offset.abs().max().item():g}"
            )
        self.arrays = [factor.long(), shift, whole_numbers(offset)]
        self.arrays = [array.contiguous() for array in self.arrays]
        self.period = slope.numel()

    @classmethod
    def whitening(cls, mean: Tensor, log_sigma: Tensor) -> Affine:
        """(x - mean) exp(-log_sigma), of float arguments of one shape."""
        slope = exact.function("exp", -log_sigma.double())
        return cls(slope, -mean.double() * slope)


def whole_numbers(offset: Tensor) -> Tensor:
    """Real offsets as whole numbers over 2^32.

    Raises:
        ValueError: If one is not within 2^18.
    """
    if not (offset.abs() < MOST_OFFSET).all():  # NaN neither
        worst = offset.abs().max().item()
        raise ValueError(f"an offset must be below 2^18 to be coded, got {worst:g}")
    return torch.round(offset.double() * GRID).long()


def to_float(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Whole numbers over 2^32 as real numbers, rounded once."""
    return x.to(dtype) / GRID
