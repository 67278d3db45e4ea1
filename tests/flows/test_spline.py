"""Rational-quadratic splines; `tests/models/test_kinds.py` has what every coupling must do."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from vflow.flows.couplings import SplineSpec
from vflow.flows.couplings.spline import LEAST_SLOPE


def knots_of(spec: SplineSpec, params: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    coupling = spec.build(nn.Identity())
    widths, heights, _ = params.split([spec.bins, spec.bins, spec.bins - 1], -1)
    return coupling._knots(widths), coupling._knots(heights)


def test_it_goes_through_its_knots_and_rises() -> None:
    spec = SplineSpec(bins=5)
    coupling = spec.build(nn.Identity())
    params = 2 * torch.randn(1, 1, spec.parameters, dtype=torch.float64)
    xs, ys = knots_of(spec, params)
    inner = xs[0, 0, 1:-1]
    rows = params.expand(len(inner), -1, -1)
    found, _ = coupling.transform(inner.unsqueeze(1), rows)
    torch.testing.assert_close(found.squeeze(1), ys[0, 0, 1:-1])
    line = torch.linspace(-4, 4, 2001, dtype=torch.float64).unsqueeze(1)
    y, _ = coupling.transform(line, params.expand(len(line), -1, -1))
    assert (y.diff(dim=0) > 0).all()
    outside = line.abs() >= spec.bound
    assert torch.equal(y[outside], line[outside])
    assert (y - line).abs().max() > 0.1


def test_its_slope_is_continuous_at_the_knots_and_the_ends() -> None:
    spec = SplineSpec(bins=4)
    coupling = spec.build(nn.Identity())
    params = torch.randn(1, 1, spec.parameters, dtype=torch.float64)
    points = knots_of(spec, params)[0][0, 0]
    for sign in (-1, 1):
        near = (points + sign * 1e-9).unsqueeze(1)
        _, log_slope = coupling.transform(near, params.expand(len(near), -1, -1))
        if sign < 0:
            before = log_slope
    torch.testing.assert_close(before, log_slope, rtol=0, atol=1e-6)
    assert log_slope[[0, -1]].abs().max() < 1e-6


@pytest.mark.parametrize("scale", [1.0, 30.0, 1000.0])
def test_extreme_parameters_stay_finite_and_invertible(scale: float) -> None:
    spec = SplineSpec()
    coupling = spec.build(nn.Identity())
    params = scale * torch.randn(64, 3, spec.parameters, dtype=torch.float64)
    x = 2 * torch.randn(64, 3, dtype=torch.float64)
    y, logdet = coupling.transform(x, params.requires_grad_())
    back, inverse_logdet = coupling.untransform(y, params)
    torch.testing.assert_close(back, x, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(inverse_logdet, -logdet, rtol=1e-5, atol=1e-5)
    (gradient,) = torch.autograd.grad(y.sum() + logdet.sum(), params)
    assert gradient.isfinite().all()


def test_it_is_nflows() -> None:
    splines = pytest.importorskip("nflows.transforms.splines")
    spec = SplineSpec(bins=6, bound=2.5)
    coupling = spec.build(nn.Identity())
    params = torch.randn(40, 3, spec.parameters, dtype=torch.float64)
    x = 2 * torch.randn(40, 3, dtype=torch.float64)
    y, logdet = coupling.transform(x, params)
    widths, heights, inner = params.split([6, 6, 5], -1)
    theirs, log_slopes = splines.unconstrained_rational_quadratic_spline(
        x, widths, heights, inner + math.log(math.expm1(1 - LEAST_SLOPE)), tail_bound=2.5
    )
    torch.testing.assert_close(y, theirs, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(logdet, log_slopes.sum(1), rtol=1e-9, atol=1e-9)


def test_options() -> None:
    for options, message in (({"bins": 1}, "bins must be an"), ({"bound": 0}, "bound must be a n")):
        with pytest.raises(ValueError, match=message):
            SplineSpec(**options)
