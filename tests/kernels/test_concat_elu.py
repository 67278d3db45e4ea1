"""The concat_elu kernels: against the reference, value by value, on views."""

from __future__ import annotations

import math

import pytest
import torch

from tests.kernels.agreement import DEVICE, DTYPES, assert_agrees, assert_same_bits, to_device
from vflow.ops.reference import concat_elu as reference


@pytest.fixture
def forward(kernels):
    return kernels.concat_elu.concat_elu


@pytest.fixture
def backward(kernels):
    return kernels.concat_elu.concat_elu_backward


def make(shape, channels, dtype, size=2.0):
    generator = torch.Generator().manual_seed(0)
    grad = torch.randn(*shape, 2 * channels, generator=generator)
    x = size * torch.randn(*shape, channels, generator=generator)
    return to_device(grad.to(dtype), x.to(dtype))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("channels", [1, 3, 16, 33, 96, 1500])
def test_agrees_with_the_reference(forward, backward, channels, dtype):
    grad, x = make((3, 5), channels, dtype)
    assert_agrees(forward, reference.concat_elu, (x,))
    assert_agrees(backward, reference.concat_elu_backward, (grad, x))


@pytest.mark.parametrize("size", [1e-30, 1e-3, 100.0, 1e30])
def test_sizes(forward, backward, size):
    grad, x = make((40,), 57, torch.float32, size)
    assert_agrees(forward, reference.concat_elu, (x,))
    assert_agrees(backward, reference.concat_elu_backward, (grad, x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_every_value_is_accurate(forward, dtype):
    """Each within three roundings of its own size, from the smallest to the largest."""
    exponents = torch.linspace(-30, math.log10(torch.finfo(dtype).max) - 1, 1001)
    x = (10 ** exponents.double()).to(dtype)
    x = torch.cat([-x, x, torch.linspace(-2, 2, 999, dtype=dtype)])
    y = forward(x[:, None].to(DEVICE)).cpu().double()
    exact = torch.stack([x.double(), -x.double()], dim=1)
    exact = torch.where(exact > 0, exact, exact.expm1())
    whole = exact != 0
    errors = (y - exact)[whole].abs() / exact[whole].abs()
    assert errors.max() < 3 * torch.finfo(dtype).eps


def test_views_and_bits(forward, backward):
    grad, x = make((4, 6), 5, torch.float32)
    for cut in (lambda t: t[:, ::2], lambda t: t.transpose(0, 1), lambda t: t[:1].expand(4, 6, -1)):
        views = cut(grad), cut(x)
        copies = tuple(t.contiguous() for t in views)
        assert_same_bits(forward, views[1:], copies[1:])
        assert_same_bits(backward, views, copies)


def test_nan_shows_where_it_is(forward, backward):
    grad, x = make((3,), 5, torch.float32)
    x[1, -1] = math.nan
    y = forward(x)
    assert y.isnan().nonzero().tolist() == [[1, 4], [1, 9]]
    assert backward(grad, x).isnan().nonzero().tolist() == [[1, 4]]


def test_empty(forward, backward):
    grad, x = make((0, 3), 4, torch.float32)
    assert forward(x).shape == (0, 3, 8)
    assert backward(grad, x).shape == (0, 3, 4)
