"""Monotone rational-quadratic splines as a coupling (Durkan et al., 2019)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vflow.flows.couplings.base import COUPLINGS, Coupling
from vflow.flows.couplings.spline_cells import SplineCells
from vflow.io.fields import require_int, require_number, take_plain_numbers
from vflow.ops.coder import Coder

LEAST_BIN = 1e-3
LEAST_SLOPE = 1e-3


class SplineCoupling(Coupling):
    """y2 is a spline of x2 on [-bound, bound]^2 whose knots x1 decides; outside it y2 = x2.

    Each of the `bins` pieces is a quotient of two quadratics, rising, and joined smoothly to the
    next. With zero parameters it is the identity.

    Args:
        net: Network [..., C1] (and context) -> [..., C2 * (3 bins - 1)], element-major: each
            element's widths, heights and inner slopes, raw.
        bins: Pieces.
        bound: Half the side of the square.
    """

    def __init__(self, net: nn.Module, bins: int, bound: float) -> None:
        super().__init__(net, 3 * bins - 1)
        self.bins = bins
        self.bound = bound

    def transform(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        """Along the spline."""
        return self._along(x, params, backwards=False)

    def untransform(self, y: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        """Back along it: a quadratic equation in each piece."""
        return self._along(y, params, backwards=True)

    def code_elements(self, x: Tensor, params: Tensor, coder: Coder) -> Tensor:
        """Whole numbers, linear within cells of 2^-14."""
        return self._cells(params).code(x, coder)

    def uncode_elements(self, y: Tensor, params: Tensor, coder: Coder) -> Tensor:
        """Likewise."""
        return self._cells(params).code_inverse(y, coder)

    def _cells(self, params: Tensor) -> SplineCells:
        return SplineCells(params, self.bins, self.bound, LEAST_BIN, LEAST_SLOPE)

    def resting(self) -> Tensor:
        """Equal pieces of slope 1."""
        return torch.zeros(self.parameters_per_element)

    def _knots(self, raw: Tensor) -> Tensor:
        """Raw widths or heights [..., bins] -> knots [..., bins + 1] from -bound to bound."""
        share = LEAST_BIN + (1 - LEAST_BIN * self.bins) * raw.softmax(-1)
        inner = self.bound * (2 * share.cumsum(-1)[..., :-1] - 1)
        end = torch.full_like(inner[..., :1], self.bound)
        return torch.cat([-end, inner, end], -1)

    def _slopes(self, raw: Tensor) -> Tensor:
        """Raw inner slopes [..., bins - 1] -> slopes at the knots [..., bins + 1], the ends' 1."""
        offset = math.log(math.expm1(1 - LEAST_SLOPE))  # of 0 comes 1
        return F.pad(LEAST_SLOPE + F.softplus(raw + offset), (1, 1), value=1.0)

    def _along(self, value: Tensor, params: Tensor, backwards: bool) -> tuple[Tensor, Tensor]:
        widths, heights, inner = params.split([self.bins, self.bins, self.bins - 1], -1)
        xs, ys, slopes = self._knots(widths), self._knots(heights), self._slopes(inner)
        inside = value.abs() < self.bound
        within = value.clamp(-self.bound, self.bound).unsqueeze(-1)
        knots = ys if backwards else xs
        piece = (within >= knots[..., 1:-1]).sum(-1, keepdim=True)

        def at(values: Tensor, shift: int = 0) -> Tensor:
            return values.gather(-1, piece + shift).squeeze(-1)

        x0, y0, first, second = at(xs), at(ys), at(slopes), at(slopes, 1)
        width, height = at(xs, 1) - x0, at(ys, 1) - y0
        slope = height / width
        bend = first + second - 2 * slope
        if backwards:
            rise = within.squeeze(-1) - y0
            a = height * (slope - first) + rise * bend
            b = height * first - rise * bend
            c = -slope * rise
            root = (b.square() - 4 * a * c).clamp_min(0).sqrt()
            t = 2 * c / (-b - root)
        else:
            t = (within.squeeze(-1) - x0) / width
        both = t * (1 - t)
        below = slope + bend * both
        above = second * t.square() + 2 * slope * both + first * (1 - t).square()
        log_slope = 2 * slope.log() + above.log() - 2 * below.log()
        if backwards:
            found, log_slope = x0 + t * width, -log_slope
        else:
            found = y0 + height * (slope * t.square() + first * both) / below
        result = torch.where(inside, found, value)
        return result, torch.where(inside, log_slope, 0).flatten(1).sum(1)


@COUPLINGS.register("spline")
@dataclass(frozen=True, kw_only=True)
class SplineSpec:
    """Options of the rational-quadratic spline coupling."""

    bins: int = 8
    """Pieces of each spline."""
    bound: float = 3.0
    """Half the side of the square in which it bends; outside it is the identity."""

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ValueError: Naming the field, what it must be and what it is.
        """
        take_plain_numbers(self)
        require_int("bins", self.bins, 2)
        if self.bins * LEAST_BIN >= 1:
            raise ValueError(f"bins must be below {1 / LEAST_BIN:g}, got {self.bins}")
        require_number("bound", self.bound, above=0)

    @classmethod
    def tiny(cls) -> SplineSpec:
        """At its smallest, for tests."""
        return cls(bins=3)

    @property
    def parameters(self) -> int:
        """Widths, heights and inner slopes."""
        return 3 * self.bins - 1

    def build(self, net: nn.Module) -> SplineCoupling:
        """The coupling of a network."""
        return SplineCoupling(net, self.bins, self.bound)
