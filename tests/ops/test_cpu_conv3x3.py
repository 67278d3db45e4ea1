"""conv3x3 by tiles on the native CPU library."""

from __future__ import annotations

import math
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

import vflow
from tests.ops.agreement import (
    THREADS,
    assert_agrees,
    assert_same_bits,
    threads,
    values_and_gradients,
)
from tests.tolerances import assert_within_budget
from vflow.ops import conv3x3, native, use_backend

pytestmark = pytest.mark.skipif(
    native.fused_missing() is not None, reason="the kernels need fused products and sums"
)
TILES_LOSE = 5.0  # times a plain sum's error, at most
WIDE = 16  # the fewest channels that go by tiles


def inputs(batch, height, width, channels, out, size=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = (batch, height, width, channels), (out, channels, 3, 3), (out,)
    x, weight, bias = (torch.randn(shape, generator=generator) for shape in shapes)
    return size * x, weight / math.sqrt(9 * channels), bias


def run(tensors, backend="cpu"):
    return values_and_gradients(conv3x3, tensors, backend)


def assert_agrees_by_tiles(tensors):
    assert_agrees(conv3x3, tensors, multiple=TILES_LOSE)


def goes_by_tiles(call):
    with torch.profiler.profile() as profile:
        call()
    return "vflow::conv3x3" in {event.key for event in profile.key_averages()}


@pytest.mark.parametrize("size", [(3, 3), (4, 4), (5, 7), (8, 16), (13, 4), (17, 9)], ids=str)
@pytest.mark.parametrize("channels", [(16, 16), (17, 40), (33, 16), (48, 31), (16, 97)], ids=str)
def test_agrees_with_the_reference(channels, size):
    assert_agrees_by_tiles(inputs(2, *size, *channels))


@given(
    batch=st.integers(0, 3),
    height=st.integers(3, 20),
    width=st.integers(3, 20),
    channels=st.integers(WIDE, 70),
    out=st.integers(WIDE, 70),
    size=st.sampled_from([1e-30, 1e-3, 1.0, 1e20]),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_shape_and_size(batch, height, width, channels, out, size, seed):
    x, weight, bias = inputs(batch, height, width, channels, out, size, seed)
    assert_agrees_by_tiles((x, weight, size * bias))


def test_many_tiles():
    """More than are taken to the points at once, in both directions."""
    assert_agrees_by_tiles(inputs(9, 32, 32, 16, 24))


@pytest.mark.parametrize("channels", [(16, 24), (80, 33)], ids=str)
def test_same_bits_for_any_number_of_threads_and_images(channels):
    x, weight, bias = inputs(5, 9, 14, *channels)
    expected = run((x, weight, bias))
    for count in (*THREADS, 8):
        with threads(count):
            assert_same_bits(run((x, weight, bias)), expected, count)
    with use_backend("cpu"):
        assert torch.equal(conv3x3(x[2:3], weight, bias), expected[0][2:3])


def test_strided_inputs_and_weights_in_channels_last():
    x, weight, bias = inputs(2, 8, 12, 32, 48)
    expected = run((x, weight, bias))
    last = weight.contiguous(memory_format=torch.channels_last)
    actual = run((x.transpose(1, 2).contiguous().transpose(1, 2), last, bias))
    assert_same_bits(actual, expected)
    for view in (x[:, ::2], x[..., :16].expand(2, 8, 12, 16), x[:1].expand_as(x)):
        weight = torch.randn(20, view.shape[-1], 3, 3)
        given = view, weight, torch.randn(20)
        assert_same_bits(run(given), run((view.contiguous(), *given[1:])))


def test_the_gradient_of_a_weight_lies_as_the_weight_does():
    x, weight, bias = inputs(2, 8, 8, 16, 16)
    for memory_format in (torch.contiguous_format, torch.channels_last):
        parameter = torch.nn.Parameter(weight.contiguous(memory_format=memory_format))
        conv3x3(x, parameter, bias).sum().backward()
        assert parameter.grad.is_contiguous(memory_format=memory_format)


def test_what_goes_by_tiles():
    x, weight, bias = inputs(2, 8, 8, 16, 16)
    assert goes_by_tiles(lambda: conv3x3(x, weight, bias))
    assert not goes_by_tiles(lambda: conv3x3(x.double(), weight.double(), bias.double()))
    assert not goes_by_tiles(lambda: conv3x3(x[..., :15], weight[:, :15], bias))
    assert not goes_by_tiles(lambda: conv3x3(x, weight[:15], bias[:15]))
    assert not goes_by_tiles(lambda: conv3x3(x[:, :1], weight, bias))  # a quarter of each tile
    with use_backend("reference"):
        assert not goes_by_tiles(lambda: conv3x3(x, weight, bias))


def test_autocast_on_a_processor_without_a_matrix_unit(monkeypatch):
    """bfloat16 in and out, weights as they are, and what a half type allows of error."""
    monkeypatch.setattr(sys.modules[conv3x3.__module__], "_HAS_MATRIX_UNIT", False)
    x, weight, bias = inputs(2, 9, 8, 24, 32)
    x = x.bfloat16().float()
    leaves = [t.clone().requires_grad_() for t in (x, weight, bias)]
    plain = [t.clone().requires_grad_() for t in (x, weight, bias)]
    wide = [t.double().requires_grad_() for t in (x, weight, bias)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert goes_by_tiles(lambda: conv3x3(x, weight, bias))
        actual = conv3x3(*leaves)
        reference = functional.conv2d(plain[0].permute(0, 3, 1, 2), *plain[1:], padding=1)
    reference = reference.permute(0, 2, 3, 1)
    truth = functional.conv2d(wide[0].permute(0, 3, 1, 2), *wide[1:], padding=1)
    truth = truth.permute(0, 2, 3, 1)
    assert actual.dtype == torch.bfloat16
    cotangent = torch.randn(actual.shape).bfloat16()
    results = (
        [y.detach(), *torch.autograd.grad(y, given, cotangent.to(y.dtype))]
        for y, given in ((actual, leaves), (reference, plain), (truth, wide))
    )
    for i, (a, r, t) in enumerate(zip(*results, strict=True)):
        assert_within_budget(f"output or gradient {i}", a, r, t)


def test_a_nan_stays_in_its_image_and_near():
    x, weight, bias = inputs(3, 16, 16, 16, 16)
    x[1, 6, 5, 3] = math.nan
    y = conv3x3(x, weight, bias)
    touched = y.isnan().any(-1)
    assert not touched[0].any()
    assert not touched[2].any()
    assert touched[1, 5:8, 4:7].all()  # what a plain sum would reach
    assert not touched[1, 12:].any()  # of other tiles nothing
    assert not touched[1, :, 12:].any()


def test_a_model_learns_the_same_by_tiles_and_without():
    """Whole gradients: the error is that of float32, whichever way the convolutions go."""
    torch.manual_seed(0)
    model = vflow.create_model("vflow-tiny", filters=16)
    images = torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8)
    model.initialize(images)

    def gradients(backend):
        model.zero_grad()
        torch.manual_seed(1)
        with use_backend(backend):
            (-model(images).mean()).backward()
        return [p.grad.clone() for p in model.parameters() if p.grad is not None]

    assert goes_by_tiles(lambda: model(images))
    for tiled, plain in zip(gradients("cpu"), gradients("reference"), strict=True):
        torch.testing.assert_close(tiled, plain, rtol=1e-3, atol=1e-4 * plain.abs().max().item())
