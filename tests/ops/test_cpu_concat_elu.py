"""concat_elu on the native CPU library."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.ops.agreement import (
    LARGE_BYTES,
    STORED,
    THREADS,
    assert_agrees,
    assert_same_bits,
    threads,
    values_and_gradients,
)
from vflow.ops import concat_elu, use_backend

CHANNELS = [1, 2, 3, 5, 6, 7, 12, 16, 17, 24, 33, 64, 96, 100]


@pytest.mark.parametrize("dtype", STORED, ids=str)
@pytest.mark.parametrize("channels", CHANNELS)
def test_agrees_with_the_reference(channels, dtype):
    assert_agrees(concat_elu, ((2 * torch.randn(3, 5, 7, channels)).to(dtype),))


@given(
    shape=st.lists(st.integers(0, 9), min_size=0, max_size=3),
    channels=st.integers(1, 140),
    dtype=st.sampled_from(STORED),
    size=st.sampled_from([1e-30, 1e-3, 1.0, 100.0, 1e30]),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_shape_and_size(shape, channels, dtype, size, seed):
    generator = torch.Generator().manual_seed(seed)
    assert_agrees(
        concat_elu, ((size * torch.randn(*shape, channels, generator=generator)).to(dtype),)
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_every_value_is_accurate(dtype):
    """Each within three roundings of its own size, from the smallest to the largest."""
    exponents = torch.linspace(-30, math.log10(torch.finfo(dtype).max) - 1, 4001)
    x = (10 ** exponents.double()).to(dtype)
    x = torch.cat([-x, x])
    for channels in (1, 8002):
        with use_backend("cpu"):
            y = concat_elu(x.view(-1, channels)).view(-1, 2, channels)
        found = torch.stack([y[:, 0].reshape(-1), y[:, 1].reshape(-1)])
        exact = torch.stack([x.double(), -x.double()])
        exact = torch.where(exact > 0, exact, exact.expm1())
        errors = (found.double() - exact).abs() / exact.abs()
        assert errors.max() < 3 * torch.finfo(dtype).eps


@pytest.mark.parametrize("channels", [3, 57, 96])
def test_large_outputs(channels):
    """These are streamed, in stages of rows; 57 channels are not whole vectors, nor rows whole
    stages."""
    rows = LARGE_BYTES // (4 * channels) + 11
    x = torch.randn(rows, channels)
    ours = values_and_gradients(concat_elu, (x,), "cpu")
    for name, a, e in zip(
        "yg", ours, values_and_gradients(concat_elu, (x,), "reference"), strict=True
    ):
        torch.testing.assert_close(a, e, rtol=1e-6, atol=1e-6, msg=name)
    halves = values_and_gradients(concat_elu, (x[: rows // 3],), "cpu")
    assert torch.equal(ours[0][: rows // 3], halves[0])


def test_strided_inputs_and_expanded_gradients():
    x = torch.randn(4, 6, 8, 5)
    for view in (x[:, :, ::2], x[..., :3], x.transpose(1, 2), x[:1].expand(4, 6, 8, 5)):
        assert_same_bits(
            values_and_gradients(concat_elu, (view,), "cpu"),
            values_and_gradients(concat_elu, (view.contiguous(),), "cpu"),
        )
    leaf = x.clone().requires_grad_()
    with use_backend("cpu"):
        concat_elu(leaf).sum().backward()
    slope = torch.where(x > 0, 1 - (-x).exp(), x.exp() - 1)  # of the sum of both halves
    torch.testing.assert_close(leaf.grad, slope)


@pytest.mark.parametrize("dtype", STORED, ids=str)
def test_same_bits_for_any_number_of_threads(dtype):
    x = torch.randn(1000, 57).to(dtype)
    expected = values_and_gradients(concat_elu, (x,), "cpu")
    for count in THREADS:
        with threads(count):
            assert_same_bits(values_and_gradients(concat_elu, (x,), "cpu"), expected, count)


@pytest.mark.parametrize("dtype", STORED, ids=str)
@pytest.mark.parametrize("channels", [1, 5, 40])
def test_nan_shows_where_it_is(channels, dtype):
    x = torch.randn(3, channels).to(dtype)
    x[1, -1] = math.nan
    y, grad_x = values_and_gradients(concat_elu, (x,), "cpu")
    assert y[1, channels - 1].isnan()
    assert y[1, -1].isnan()
    assert grad_x[1, -1].isnan()
    assert y.isnan().sum() == 2
    assert grad_x.isnan().sum() == 1
