"""Dropout, alone and within concat_elu, on the native CPU library."""

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
from tests.ops.inputs import concat_elu_dropout_of_a_seed, dropout_of_a_seed
from vflow.ops import use_backend

CHANNELS = [1, 2, 3, 5, 7, 8, 16, 17, 24, 33, 64, 96, 100]
FUNCTIONS = {"dropout": dropout_of_a_seed, "concat_elu": concat_elu_dropout_of_a_seed}
each_function = pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)


def assert_agrees_with_its_mask(function, x):
    found, expected = assert_agrees(function, (x,))
    assert torch.equal(found[0] == 0, expected[0] == 0)


@each_function
@pytest.mark.parametrize("dtype", STORED, ids=str)
@pytest.mark.parametrize("channels", CHANNELS)
def test_agrees_with_the_reference(channels, dtype, function):
    for shape in ((3, 5, 7), (1,), (2, 2), (257,)):
        assert_agrees_with_its_mask(function, (2 * torch.randn(*shape, channels)).to(dtype))


@each_function
@given(
    shape=st.lists(st.integers(0, 9), min_size=0, max_size=3),
    channels=st.integers(1, 140),
    dtype=st.sampled_from(STORED),
)
def test_any_shape(shape, channels, dtype, function):
    assert_agrees_with_its_mask(function, torch.ones(*shape, channels, dtype=dtype))


@each_function
@pytest.mark.parametrize("channels", [3, 57, 96])
def test_large_outputs(channels, function):
    """These are streamed; 57 channels are not whole vectors."""
    x = torch.randn(LARGE_BYTES // (4 * channels) + 11, channels)
    ours, theirs = (values_and_gradients(function, (x,), b) for b in ("cpu", "reference"))
    assert torch.equal(ours[0] == 0, theirs[0] == 0)
    for name, a, e in zip("yg", ours, theirs, strict=True):
        torch.testing.assert_close(a, e, rtol=1e-6, atol=2e-6, msg=name)


@each_function
@pytest.mark.parametrize("dtype", STORED, ids=str)
def test_same_bits_for_any_number_of_threads(dtype, function):
    x = torch.randn(1000, 57).to(dtype)
    expected = values_and_gradients(function, (x,), "cpu")
    for count in THREADS:
        with threads(count):
            assert_same_bits(values_and_gradients(function, (x,), "cpu"), expected, count)


@each_function
def test_strided_inputs(function):
    x = torch.randn(4, 6, 8, 5)
    for view in (x[:, :, ::2], x[..., :3], x.transpose(1, 2), x[:1].expand(4, 6, 8, 5)):
        assert_same_bits(
            values_and_gradients(function, (view,), "cpu"),
            values_and_gradients(function, (view.contiguous(),), "cpu"),
        )


@each_function
def test_a_nan_shows_where_it_is(function):
    x = torch.randn(9, 20)
    x[4, 7] = math.nan
    with use_backend("cpu"):
        y = function(x)
    assert y.isnan().nonzero()[:, 0].eq(4).all()
    assert y.isnan().sum() == y.shape[-1] // 20
