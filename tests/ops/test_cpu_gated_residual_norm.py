"""gated_residual_norm on the native CPU library."""

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
from vflow.ops import gated_residual_norm

FEATURES = [1, 2, 3, 5, 6, 7, 12, 16, 17, 24, 33, 64, 96, 100]


def make(shape, features, dtype, seed=0, gate=1.0, offset=0.0):
    generator = torch.Generator().manual_seed(seed)
    x, ab, weight, bias = (
        torch.randn(s, generator=generator)
        for s in ((*shape, features), (*shape, 2 * features), (features,), (features,))
    )
    ab[..., features:] *= gate
    return tuple(t.to(dtype) for t in (x + offset, ab, weight, bias))


@pytest.mark.parametrize("dtype", STORED, ids=str)
@pytest.mark.parametrize("features", FEATURES)
def test_agrees_with_the_reference(features, dtype):
    assert_agrees(gated_residual_norm, make((3, 5, 7), features, dtype))
    if dtype == torch.float64:
        assert_agrees(gated_residual_norm, make((), features, dtype))


@given(
    shape=st.lists(st.integers(0, 9), min_size=0, max_size=2),
    features=st.integers(3, 140),
    dtype=st.sampled_from(STORED),
    gate=st.sampled_from([0.0, 1.0, 30.0, 1e4]),
    offset=st.sampled_from([0.0, 1.0, 30.0]),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_shape_gate_and_offset(shape, features, dtype, gate, offset, seed):
    # Never a single row: it may be a lucky one for the reference, whose error makes the budget.
    inputs = make((16, *shape), features, dtype, seed, gate, offset)
    assert_agrees(gated_residual_norm, inputs)


@pytest.mark.parametrize("dtype", STORED, ids=str)
@pytest.mark.parametrize("value", [0.0, 0.3, -1234.567, 1e6])
@pytest.mark.parametrize("features", [1, 7, 16, 56, 96, 100])
def test_constant_rows_become_the_bias(features, value, dtype):
    x, ab, weight, bias = make((4,), features, dtype)
    x, ab = torch.full_like(x, value), torch.zeros_like(ab)
    y = values_and_gradients(gated_residual_norm, (x, ab, weight, bias), "cpu")[0]
    band = 8 * torch.finfo(dtype).eps * weight.abs().max()
    assert (y - bias).abs().max() <= band


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_nearly_constant_rows(dtype):
    """The differences carry all there is; their mean must not be lost in the offset's rounding."""
    inputs = make((6,), 96, dtype, offset=3000.0)
    assert_agrees(gated_residual_norm, inputs)


@pytest.mark.parametrize(
    "dtypes",
    [
        (torch.bfloat16, torch.bfloat16, torch.float32, torch.float32),
        (torch.float32, torch.bfloat16, torch.float32, torch.float32),
        (torch.bfloat16, torch.float32, torch.bfloat16, torch.float32),
        (torch.float32, torch.float16, torch.float16, torch.float64),
        (torch.float64, torch.float32, torch.float32, torch.float32),
        (torch.float32, torch.float64, torch.float64, torch.float32),
    ],
    ids=str,
)
def test_mixed_dtypes(dtypes):
    inputs = tuple(t.to(d) for t, d in zip(make((3, 5), 24, torch.float32), dtypes, strict=True))
    actual = values_and_gradients(gated_residual_norm, inputs, "cpu")
    reference = values_and_gradients(gated_residual_norm, inputs, "reference")
    for a, r in zip(actual, reference, strict=True):
        assert a.dtype == r.dtype
        eps = max(torch.finfo(a.dtype).eps, torch.finfo(torch.float32).eps)
        torch.testing.assert_close(a, r, rtol=4 * eps, atol=16 * eps)


@pytest.mark.parametrize("features", [3, 57, 96])
def test_large_outputs(features):
    """These are streamed, in stages of rows; 57 features are not whole vectors, nor rows whole
    stages."""
    rows = LARGE_BYTES // (4 * features) + 11
    inputs = make((rows,), features, torch.float32)
    assert_agrees(gated_residual_norm, inputs)
    x, ab, weight, bias = inputs
    some = values_and_gradients(
        gated_residual_norm, (x[: rows // 3], ab[: rows // 3], weight, bias), "cpu"
    )
    assert torch.equal(
        values_and_gradients(gated_residual_norm, inputs, "cpu")[0][: rows // 3], some[0]
    )


def test_strided_inputs():
    x, ab, weight, bias = make((4, 6, 8), 10, torch.float32)
    for cut in (
        lambda t: t[:, :, ::2],
        lambda t: t.transpose(1, 2),
        lambda t: t[:1].expand(4, 6, 8, -1),
    ):
        views = (cut(x), cut(ab), weight[:].flip(0), bias)
        assert_same_bits(
            values_and_gradients(gated_residual_norm, views, "cpu"),
            values_and_gradients(gated_residual_norm, tuple(t.contiguous() for t in views), "cpu"),
        )


@pytest.mark.parametrize("dtype", STORED, ids=str)
@pytest.mark.parametrize("features", [7, 56])
def test_same_bits_for_any_number_of_threads(features, dtype):
    inputs = make((3000,), features, dtype)
    expected = values_and_gradients(gated_residual_norm, inputs, "cpu")
    for count in THREADS:
        with threads(count):
            assert_same_bits(
                values_and_gradients(gated_residual_norm, inputs, "cpu"), expected, count
            )


@pytest.mark.parametrize("place", ["x", "a", "b"])
@pytest.mark.parametrize("features", [1, 5, 40])
def test_nan_shows_in_its_row_alone(features, place):
    x, ab, weight, bias = make((3,), features, torch.float32)
    target = x if place == "x" else ab
    target[1, features - 1 if place != "b" else -1] = math.nan
    y, grad_x, grad_ab, grad_weight, _ = values_and_gradients(
        gated_residual_norm, (x, ab, weight, bias), "cpu"
    )
    for t in (y, grad_x, grad_ab):
        assert t[1].isnan().all()
        assert t[0::2].isfinite().all()
    assert grad_weight.isnan().all()


@pytest.mark.parametrize("features", [5, 40, 96])
def test_overflow_shows_in_its_row_alone(features):
    """Squares beyond the largest float: not a row of zeros that looks well."""
    x, ab, weight, bias = make((3,), features, torch.float32)
    x[1] *= 1e25
    y, grad_x, grad_ab, _, _ = values_and_gradients(
        gated_residual_norm, (x, ab, weight, bias), "cpu"
    )
    for t in (y, grad_x, grad_ab):
        assert t[1].isnan().any()
        assert t[0::2].isfinite().all()


def test_no_rows_have_gradients_of_zero():
    grads = values_and_gradients(gated_residual_norm, make((0, 4), 6, torch.float32), "cpu")
    assert all(torch.equal(g, torch.zeros(6)) for g in grads[3:])
