"""actnorm_conv1x1 and its inverse on the native CPU library."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.ops.agreement import (
    STORED,
    THREADS,
    assert_agrees,
    assert_same_bits,
    threads,
    values_and_gradients,
)
from vflow.ops import actnorm_conv1x1, actnorm_conv1x1_inverse, use_backend

CHANNELS = [1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 16, 17, 24, 33, 40, 52, 64, 96, 100]


def make(shape, dtype, seed=0):
    """Inputs whose matrix is well conditioned."""
    generator = torch.Generator().manual_seed(seed)
    channels = shape[-1]
    x, bias = (torch.randn(s, generator=generator) for s in (shape, shape[1:]))
    scale = 0.5 + torch.rand(shape[1:], generator=generator)
    weight = torch.linalg.qr(torch.randn(channels, channels, generator=generator).double())[0]
    weight += 0.2 * torch.eye(channels) * weight.diagonal().sign()
    return tuple(t.to(dtype) for t in (x, scale, bias, weight))


@pytest.mark.parametrize("dtype", STORED, ids=str)
@pytest.mark.parametrize("channels", CHANNELS)
def test_agrees_with_the_reference(channels, dtype):
    inputs = make((3, 5, 7, channels), dtype)
    assert_agrees(actnorm_conv1x1, inputs)
    assert_agrees(actnorm_conv1x1_inverse, inputs, differentiable=False)


@pytest.mark.parametrize("channels", [2, 6, 24])
def test_many_images_and_positions(channels):
    """More than one run either way; small images are taken together."""
    for shape in ((37, 9, 31, channels), (70, 5, channels), (2001, channels)):
        inputs = make(shape, torch.float32)
        assert_agrees(actnorm_conv1x1, inputs)
        assert_agrees(actnorm_conv1x1_inverse, inputs, differentiable=False)


@given(
    batch=st.integers(0, 40),
    middle=st.lists(st.integers(0, 12), min_size=0, max_size=2),
    channels=st.integers(1, 40),
    dtype=st.sampled_from(STORED),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_shape(batch, middle, channels, dtype, seed):
    inputs = make((batch, *middle, channels), dtype, seed)
    assert_agrees(actnorm_conv1x1, inputs)
    assert_agrees(actnorm_conv1x1_inverse, inputs, differentiable=False)


@pytest.mark.parametrize("dtype", STORED, ids=str)
@pytest.mark.parametrize("channels", [3, 6, 16, 24, 33])
def test_halves_are_taken_as_they_are(channels, dtype):
    x, scale, bias, weight = make((4, 6, 16, 2 * channels), dtype)
    for half in (
        x[:, :, ::2],
        x[:, ::2],
        x[:, :, 1::2, :channels],
        x[..., channels:],
        x[:, ::2, ::2],
    ):
        parts = [t[: half.shape[1], : half.shape[2], : half.shape[3]] for t in (scale, bias)]
        parts.append(weight[: half.shape[3], : half.shape[3]])
        for function in (actnorm_conv1x1, actnorm_conv1x1_inverse):
            differentiable = function is actnorm_conv1x1
            assert_same_bits(
                values_and_gradients(function, (half, *parts), "cpu", differentiable),
                values_and_gradients(
                    function,
                    tuple(t.contiguous() for t in (half, *parts)),
                    "cpu",
                    differentiable,
                ),
            )


@pytest.mark.parametrize("channels", [3, 12])
def test_strided_and_expanded_gradients(channels):
    inputs = make((5, 4, 6, channels), torch.float64)

    def gradients(backend, objective):
        leaves = [t.clone().requires_grad_() for t in inputs]
        with use_backend(backend):
            y, logdet = actnorm_conv1x1(*leaves)
        return torch.autograd.grad(objective(y) + logdet.sum(), leaves)

    for objective in (
        torch.sum,
        lambda y: (y[:, :, ::2] ** 2).sum(),
        lambda y: (y.transpose(1, 2) * torch.arange(4.0)[:, None]).sum(),
        lambda y: y[..., 0].sum(),
        lambda y: (y.sum(dim=(1, 2), keepdim=True) * torch.arange(channels)).sum(),
    ):
        for a, e in zip(
            gradients("cpu", objective), gradients("reference", objective), strict=True
        ):
            torch.testing.assert_close(a, e, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", STORED, ids=str)
@pytest.mark.parametrize("channels", [3, 12])
def test_scales_at_and_below_the_floor(channels, dtype):
    x, scale, bias, weight = make((3, 4, channels), dtype)
    floor = torch.tensor(1e-10, dtype=dtype)
    below = torch.nextafter(floor, torch.zeros_like(floor))
    scale[0, 0], scale[1, 1], scale[2, 2] = floor, below, -3.0
    scale[3, 0] = 0.0
    inputs = (x, scale, bias, weight)
    actual = values_and_gradients(actnorm_conv1x1, inputs, "cpu")
    reference = values_and_gradients(actnorm_conv1x1, inputs, "reference")
    for i, (a, r) in enumerate(zip(actual, reference, strict=True)):
        eps = torch.finfo(a.dtype).eps
        torch.testing.assert_close(a, r, rtol=16 * eps, atol=64 * eps, msg=str(i))
    grad_scale = actual[3]
    assert grad_scale[1, 1] == grad_scale[2, 2] == grad_scale[3, 0] == 0
    assert grad_scale[0, 0].abs() > 1e8  # from the log-determinant
    ours, theirs = (
        values_and_gradients(actnorm_conv1x1_inverse, inputs, backend, False)
        for backend in ("cpu", "reference")
    )
    for a, r in zip(ours, theirs, strict=True):
        eps = torch.finfo(a.dtype).eps
        torch.testing.assert_close(a, r, rtol=4096 * eps, atol=4096 * eps)


@pytest.mark.parametrize("channels", [1, 2, 6, 12, 24, 64, 100])
def test_log_determinant_of_hard_matrices(channels):
    """Where a pivot is small or zero, and where the determinant would overflow a double."""
    generator = torch.Generator().manual_seed(channels)
    x, scale, bias, weight = make((2, 3, channels), torch.float64)
    matrices = [
        weight * 1e6,
        weight * 1e-6,
        torch.eye(channels).double().flip(0),
        weight * 10 ** (4 * torch.rand(channels, 1, generator=generator).double()),
    ]
    for matrix in matrices:
        with use_backend("cpu"):
            _, logdet = actnorm_conv1x1(x, scale, bias, matrix)
            back, inverse_logdet = actnorm_conv1x1_inverse(
                actnorm_conv1x1(x, scale, bias, matrix)[0], scale, bias, matrix
            )
        expected = scale.log().sum() + 3 * torch.linalg.slogdet(matrix).logabsdet
        torch.testing.assert_close(logdet, expected.expand(2), rtol=1e-12, atol=1e-10)
        torch.testing.assert_close(inverse_logdet, -logdet, rtol=0, atol=0)
        torch.testing.assert_close(back, x, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("channels", [1, 3, 12, 33])
def test_singular_matrices(channels):
    x, scale, bias, weight = make((2, 3, channels), torch.float32)
    for singular in (torch.zeros_like(weight), weight * (torch.arange(channels) < channels - 1)):
        inputs = (x, scale, bias, singular)
        y, logdet, grad_x, *grads = values_and_gradients(actnorm_conv1x1, inputs, "cpu")
        assert y.isfinite().all()
        assert (logdet == -math.inf).all()
        assert grad_x.isfinite().all()
        assert not grads[-1].isfinite().any()
        back, logdet = values_and_gradients(actnorm_conv1x1_inverse, inputs, "cpu", False)
        assert not back.isfinite().any()
        assert (logdet == math.inf).all()


@pytest.mark.parametrize("dtype", STORED, ids=str)
@pytest.mark.parametrize("channels", [3, 12])
def test_same_bits_for_any_number_of_threads(channels, dtype):
    for shape in ((37, 20, 13, channels), (300, channels)):
        inputs = make(shape, dtype)
        expected = values_and_gradients(actnorm_conv1x1, inputs, "cpu")
        inverse = values_and_gradients(actnorm_conv1x1_inverse, inputs, "cpu", False)
        for count in THREADS:
            with threads(count):
                assert_same_bits(
                    values_and_gradients(actnorm_conv1x1, inputs, "cpu"), expected, count
                )
                assert_same_bits(
                    values_and_gradients(actnorm_conv1x1_inverse, inputs, "cpu", False),
                    inverse,
                    count,
                )


@pytest.mark.parametrize("shape", [(40, 19, 11), (40, 2)], ids=str)
@pytest.mark.parametrize("channels", [3, 6, 12, 24])
def test_an_image_does_not_depend_on_its_neighbours(channels, shape):
    x, *rest = make((*shape, channels), torch.float32)
    for function in (actnorm_conv1x1, actnorm_conv1x1_inverse):
        everyone = values_and_gradients(function, (x, *rest), "cpu", False)
        for i in (0, 17, 39):
            alone = values_and_gradients(function, (x[i : i + 1].clone(), *rest), "cpu", False)
            assert_same_bits([t[i : i + 1] for t in everyone], alone, i)


@pytest.mark.parametrize("channels", [1, 3, 5, 12, 24])
def test_nan_shows_at_its_position_alone(channels):
    inputs = make((3, 7, channels), torch.float32)
    inputs[0][1, 4, -1] = math.nan
    y, logdet, grad_x, grad_scale, grad_bias, grad_weight = values_and_gradients(
        actnorm_conv1x1, inputs, "cpu"
    )
    assert y[1, 4].isnan().all()
    assert y.isnan().sum() == channels
    assert logdet.isfinite().all()
    assert grad_x.isfinite().all()
    assert grad_scale[4, -1].isnan()
    assert grad_scale.isnan().sum() == 1
    assert grad_bias.isfinite().all()
    assert grad_weight[-1].isnan().all()
    assert grad_weight.isnan().sum() == channels


@pytest.mark.parametrize("which", [1, 2, 3], ids=["scale", "bias", "weight"])
@pytest.mark.parametrize("channels", [3, 12])
def test_nan_parameters_show(channels, which):
    for place in range(channels):
        inputs = make((2, 5, channels), torch.float32)
        inputs[which][..., place] = math.nan
        y, logdet = values_and_gradients(actnorm_conv1x1, inputs, "cpu", False)
        assert y[..., place].isnan().all()
        assert logdet.isnan().all() or which == 2
        x, _ = values_and_gradients(actnorm_conv1x1_inverse, inputs, "cpu", False)
        assert x[..., place].isnan().all()


def test_empty_batch_has_gradients_of_the_parameters():
    grads = values_and_gradients(actnorm_conv1x1, make((0, 3, 4), torch.float32), "cpu")
    assert all((g == 0).all() for g in grads[3:])
