"""The actnorm_conv1x1 kernels: against the reference, singular matrices, views."""

from __future__ import annotations

import math

import pytest
import torch

from tests.kernels.agreement import (
    DEVICE,
    DTYPES,
    assert_agrees,
    assert_same_bits,
    to_device,
    wide,
)
from vflow.ops.reference import actnorm_conv1x1 as reference


@pytest.fixture
def forward(kernels):
    return kernels.actnorm_conv1x1.actnorm_conv1x1


@pytest.fixture
def invert(kernels):
    return kernels.actnorm_conv1x1.actnorm_conv1x1_inverse


@pytest.fixture
def backward(kernels):
    return kernels.actnorm_conv1x1_backward.actnorm_conv1x1_backward


def make(shape, dtype, seed=0):
    """x, scale, bias and a well conditioned matrix; then the gradients of y and logdet."""
    generator = torch.Generator().manual_seed(seed)
    channels = shape[-1]
    x, grad_y, bias, grad_logdet = (
        torch.randn(s, generator=generator) for s in (shape, shape, shape[1:], shape[:1])
    )
    scale = 0.5 + torch.rand(shape[1:], generator=generator)
    weight = torch.linalg.qr(torch.randn(channels, channels, generator=generator).double())[0]
    weight += 0.2 * torch.eye(channels) * weight.diagonal().sign()
    inputs = to_device(*(t.to(dtype) for t in (x, scale, bias, weight)))
    return inputs, to_device(grad_y.to(dtype), grad_logdet.to(wide(dtype)))


def assert_all_agree(forward, invert, backward, inputs, grads):
    assert_agrees(forward, reference.actnorm_conv1x1, inputs)
    assert_agrees(invert, reference.actnorm_conv1x1_inverse, inputs)
    assert_agrees(backward, reference.actnorm_conv1x1_backward, (*grads, *inputs))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("channels", [1, 2, 3, 6, 12, 24])
def test_agrees_with_the_reference(forward, invert, backward, channels, dtype):
    assert_all_agree(forward, invert, backward, *make((3, 5, 7, channels), dtype))


@pytest.mark.parametrize("channels", [33, 64])
def test_many_channels(forward, invert, backward, channels):
    assert_all_agree(forward, invert, backward, *make((2, 3, channels), torch.float32))


@pytest.mark.parametrize("shape", [(67, 3), (9, 5, 2), (2, 11, 13, 4), (1, 1, 5)], ids=str)
def test_vectors_and_small_and_large_images(forward, invert, backward, shape):
    assert_all_agree(forward, invert, backward, *make(shape, torch.float64))


def test_more_images_than_programs(triton_kernels, monkeypatch):
    """A program sums over several images, the last of them over fewer."""
    monkeypatch.setattr(triton_kernels.actnorm_conv1x1_backward, "_ENOUGH_PROGRAMS", 6)
    backward = triton_kernels.actnorm_conv1x1_backward.actnorm_conv1x1_backward
    for shape in ((11, 37, 2), (71, 5, 2)):
        inputs, grads = make(shape, torch.float32)
        assert_agrees(backward, reference.actnorm_conv1x1_backward, (*grads, *inputs))


@pytest.mark.parametrize("channels", [3, 6])
def test_views_are_taken_as_they_are(forward, invert, backward, channels):
    (x, scale, bias, weight), (grad_y, grad_logdet) = make((3, 4, 6, 2 * channels), torch.float32)
    for cut in (
        lambda t: t[:, :, ::2],
        lambda t: t[:, ::2],
        lambda t: t[:, :, 1::2, channels:],
        lambda t: t[..., ::2],
    ):
        half, grad = cut(x), cut(grad_y)
        parts = [t[: half.shape[1], : half.shape[2], : half.shape[3]] for t in (scale, bias)]
        parts.append(weight[: half.shape[3], : half.shape[3]])
        views = half, *parts
        copies = tuple(t.contiguous() for t in views)
        for function in (forward, invert):
            assert_same_bits(function, views, copies)
        assert_same_bits(
            backward, (grad, grad_logdet, *views), (grad.contiguous(), grad_logdet, *copies)
        )


def test_expanded_gradients(backward):
    inputs, _ = make((5, 4, 6, 3), torch.float32)
    one = torch.ones((), device=DEVICE)
    grads = one.expand(5, 4, 6, 3), one.expand(5)
    assert_same_bits(backward, (*grads, *inputs), (*(t.contiguous() for t in grads), *inputs))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_scales_at_and_below_the_floor(forward, backward, dtype):
    (x, scale, bias, weight), grads = make((3, 4, 3), dtype)
    floor = torch.tensor(1e-10, dtype=dtype)
    scale.view(-1)[:4] = torch.tensor([0, -1, floor, 2 * floor], dtype=dtype)
    assert_agrees(forward, reference.actnorm_conv1x1, (x, scale, bias, weight))
    gradient = backward(*grads, x, scale, bias, weight)[1].view(-1)
    below = scale.view(-1).double() < 1e-10
    assert (gradient[below] == 0).all()
    assert (gradient[~below] != 0).all()


def test_pivots(forward, invert):
    """Zeros on the diagonal, rows in the wrong order, numbers of very different size."""
    weight = torch.tensor(
        [[0, 0, 0, 3], [0, 1e-6, 2, 0], [0, 2, 1e-6, 0], [5e3, 0, 0, 0]], dtype=torch.float64
    )
    (x, scale, bias, _), _ = make((2, 3, 4), torch.float64)
    inputs = x, scale, bias, weight.to(DEVICE)
    assert_agrees(forward, reference.actnorm_conv1x1, inputs)
    assert_agrees(invert, reference.actnorm_conv1x1_inverse, inputs)


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_singular_matrices(forward, invert, rank):
    (x, scale, bias, weight), _ = make((2, 3, 3), torch.float32)
    weight[rank:] = 0
    y, logdet = forward(x, scale, bias, weight)
    assert y.isfinite().all()
    assert (logdet == -math.inf).all()
    assert not invert(x, scale, bias, weight)[0].isfinite().any()


def test_nan_is_not_hidden(forward, invert, backward):
    for place in range(9):
        (x, scale, bias, weight), (grad_y, grad_logdet) = make((2, 3, 3), torch.float32)
        weight[place // 3, place % 3] = math.nan
        assert forward(x, scale, bias, weight)[1].isnan().all()
        back, logdet = invert(x, scale, bias, weight)
        assert back.isnan().any()
        assert logdet.isnan().all()
        assert backward(grad_y, grad_logdet, x, scale, bias, weight)[3].isnan().any()
    (x, scale, bias, weight), _ = make((2, 3, 3), torch.float32)
    x[0, 0, 0] = math.nan
    y, logdet = forward(x, scale, bias, weight)
    assert y.isnan().any(-1).tolist() == [[True, False, False], [False] * 3]
    assert logdet.isfinite().all()
    scale[1, 1] = math.nan
    assert forward(x, scale, bias, weight)[1].isnan().all()


@pytest.mark.parametrize("shape", [(0, 3, 2), (2, 0, 2)], ids=str)
def test_empty(forward, invert, backward, shape):
    inputs, grads = make(shape, torch.float32)
    for function in (forward, invert):
        y, logdet = function(*inputs)
        assert y.shape == shape
        assert torch.equal(logdet, torch.zeros(shape[0], device=DEVICE))
    gradients = backward(*grads, *inputs)
    assert all(torch.equal(g, torch.zeros_like(t)) for g, t in zip(gradients, inputs, strict=True))
