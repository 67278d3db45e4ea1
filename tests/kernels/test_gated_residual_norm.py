"""The gated_residual_norm kernels: against the reference, at the extremes, on views."""

from __future__ import annotations

import math

import pytest
import torch

from tests.kernels.agreement import DEVICE, DTYPES, assert_agrees, assert_same_bits, to_device
from vflow.ops.reference import gated_residual_norm as reference


@pytest.fixture
def forward(kernels):
    return kernels.gated_residual_norm.gated_residual_norm


@pytest.fixture
def backward(kernels):
    return kernels.gated_residual_norm.gated_residual_norm_backward


def make(shape, features, dtype, gate=1.0, offset=0.0):
    """grad, x, ab, weight and bias."""
    generator = torch.Generator().manual_seed(0)
    row, pair = (*shape, features), (*shape, 2 * features)
    grad, x, ab, weight, bias = (
        torch.randn(s, generator=generator) for s in (row, row, pair, (features,), (features,))
    )
    ab[..., features:] *= gate
    return to_device(*(t.to(dtype) for t in (grad, x + offset, ab, weight, bias)))


def assert_both_agree(forward, backward, inputs):
    assert_agrees(forward, reference.gated_residual_norm, inputs[1:])
    assert_agrees(backward, reference.gated_residual_norm_backward, inputs)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("features", [2, 3, 5, 7, 16, 24, 33, 96, 100])
def test_agrees_with_the_reference(forward, backward, features, dtype):
    assert_both_agree(forward, backward, make((3, 5, 7), features, dtype))


@pytest.mark.parametrize("features", [1, 1500])
def test_one_feature_and_many(forward, backward, features):
    assert_both_agree(forward, backward, make((17,), features, torch.float64))


def test_more_rows_than_programs(triton_kernels, monkeypatch):
    """Each visits several blocks of rows, some one fewer than others."""
    monkeypatch.setattr(triton_kernels.gated_residual_norm, "_BACKWARD_PROGRAMS", 3)
    norm = triton_kernels.gated_residual_norm
    forward, backward = norm.gated_residual_norm, norm.gated_residual_norm_backward
    assert_both_agree(forward, backward, make((67,), 200, torch.float32))


@pytest.mark.parametrize("gate", [0.0, 30.0, 1e4])
@pytest.mark.parametrize("offset", [0.0, 30.0, 3000.0])
def test_gates_and_offsets(forward, backward, gate, offset):
    assert_both_agree(forward, backward, make((16, 3), 96, torch.float32, gate, offset))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("value", [0.3, -1234.567])
def test_constant_rows_become_the_bias(forward, dtype, value):
    _, x, ab, weight, bias = make((4,), 56, dtype)
    y = forward(torch.full_like(x, value), torch.zeros_like(ab), weight, bias)
    band = 8 * torch.finfo(dtype).eps * weight.abs().max()
    assert (y - bias).abs().max() <= band


@pytest.mark.parametrize(
    "dtypes",
    [
        (torch.bfloat16, torch.bfloat16, torch.float32, torch.float32),
        (torch.float32, torch.bfloat16, torch.float32, torch.float32),
        (torch.bfloat16, torch.float32, torch.bfloat16, torch.float32),
        (torch.float64, torch.float32, torch.float32, torch.float32),
        (torch.float32, torch.float64, torch.float64, torch.float32),
    ],
    ids=str,
)
def test_mixed_dtypes(forward, backward, dtypes):
    grad, *rest = make((3, 5), 24, torch.float32)
    inputs = tuple(t.to(dtype) for t, dtype in zip(rest, dtypes, strict=True))
    grad = grad.to(dtypes[0])
    actual = [forward(*inputs), *backward(grad, *inputs)]
    here = [t.cpu() for t in inputs]
    expected = [
        reference.gated_residual_norm(*here),
        *reference.gated_residual_norm_backward(grad.cpu(), *here),
    ]
    for a, e in zip(actual, expected, strict=True):
        assert a.dtype == e.dtype
        eps = max(torch.finfo(a.dtype).eps, torch.finfo(torch.float32).eps)
        torch.testing.assert_close(a.cpu(), e, rtol=4 * eps, atol=16 * eps)


def test_views_and_bits(forward, backward):
    grad, x, ab, weight, bias = make((4, 6), 10, torch.float32)
    for cut in (lambda t: t[:, ::2], lambda t: t.transpose(0, 1), lambda t: t[:1].expand(4, 6, -1)):
        views = cut(grad), cut(x), cut(ab), weight.flip(0), bias
        copies = tuple(t.contiguous() for t in views)
        assert_same_bits(forward, views[1:], copies[1:])
        assert_same_bits(backward, views, copies)


@pytest.mark.parametrize("place", ["x", "a", "b"])
def test_nan_shows_in_its_row_alone(forward, backward, place):
    grad, x, ab, weight, bias = make((3,), 40, torch.float32)
    (x if place == "x" else ab)[1, 39 if place != "b" else -1] = math.nan
    gradients = backward(grad, x, ab, weight, bias)
    for t in (forward(x, ab, weight, bias), *gradients[:2]):
        assert t[1].isnan().all()
        assert t[0::2].isfinite().all()
    assert gradients[2].isnan().all()


def test_overflow_shows_in_its_row_alone(forward, backward):
    """Squares beyond the largest float: not a row of zeros that looks well."""
    inputs = make((3,), 24, torch.float32)
    inputs[1][1] *= 1e25
    for t in (forward(*inputs[1:]), *backward(*inputs)[:2]):
        assert t[1].isnan().any()
        assert t[0::2].isfinite().all()


def test_no_rows(forward, backward):
    inputs = make((0, 4), 6, torch.float32)
    assert forward(*inputs[1:]).shape == (0, 4, 6)
    gradients = backward(*inputs)
    assert [g.shape for g in gradients[:2]] == [(0, 4, 6), (0, 4, 12)]
    assert all(torch.equal(g, torch.zeros(6, device=DEVICE)) for g in gradients[2:])
