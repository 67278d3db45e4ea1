"""self_attention on the native CPU library."""

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
from tests.ops.inputs import plain_self_attention
from tests.tolerances import relative_error
from vflow.ops import self_attention, use_backend

WIDTHS = [1, 5, 8, 14, 16, 17, 24]


def packed(batch, positions, heads, width, dtype, size=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (size * torch.randn(batch, positions, 3, heads, width, generator=generator)).to(dtype)


@pytest.mark.parametrize("dtype", STORED, ids=str)
@pytest.mark.parametrize("positions", [1, 7, 8, 16, 33, 64])
@pytest.mark.parametrize("width", WIDTHS)
def test_agrees_with_the_reference(positions, width, dtype):
    assert_agrees(self_attention, (packed(2, positions, 3, width, dtype),))


@given(
    batch=st.integers(0, 3),
    positions=st.integers(1, 70),
    heads=st.integers(1, 4),
    width=st.integers(1, 30),
    dtype=st.sampled_from(STORED),
    size=st.sampled_from([1e-20, 1e-3, 1.0, 4.0]),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_shape_and_size(batch, positions, heads, width, dtype, size, seed):
    assert_agrees(self_attention, (packed(batch, positions, heads, width, dtype, size, seed),))


@pytest.mark.parametrize("dtype", STORED, ids=str)
def test_scores_far_apart(dtype):
    """Scores of thousands: the softmax picks one key, and nothing overflows on the way."""
    qkv = packed(2, 40, 2, 8, dtype, size=100.0)
    for ascending in (False, True):
        # Keys in the order of their size: every block brings a larger score, or none does.
        order = qkv[0, :, 1, 0, 0].float().argsort(descending=not ascending)
        ordered = qkv[:, order]
        y, grad = values_and_gradients(self_attention, (ordered,), "cpu")
        assert grad.isfinite().all()
        expected = plain_self_attention(ordered.double())
        assert relative_error(y, expected) < 8 * torch.finfo(dtype).eps


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_equal_keys_give_the_mean_of_the_values(dtype):
    qkv = packed(2, 21, 2, 6, dtype)
    qkv[:, :, 1] = qkv[:, :1, 1]
    with use_backend("cpu"):
        y = self_attention(qkv)
    mean = qkv[:, :, 2].mean(1, keepdim=True).expand(y.shape)
    torch.testing.assert_close(y, mean, rtol=1e-5, atol=1e-6)


def test_strided_inputs_and_expanded_gradients():
    qkv = packed(4, 9, 2, 10, torch.float32)
    for view in (
        qkv[::2],
        qkv[..., ::2],
        qkv[:, :, :, :1],
        qkv.transpose(1, 3),
        qkv[:1].expand_as(qkv),
    ):
        assert_same_bits(
            values_and_gradients(self_attention, (view,), "cpu"),
            values_and_gradients(self_attention, (view.contiguous(),), "cpu"),
        )
    leaf = qkv.clone().requires_grad_()
    with use_backend("cpu"):
        self_attention(leaf).sum().backward()
    exact = qkv.double().requires_grad_()
    plain_self_attention(exact).sum().backward()
    torch.testing.assert_close(leaf.grad.double(), exact.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", STORED, ids=str)
def test_same_bits_for_any_number_of_threads_and_images(dtype):
    qkv = packed(5, 50, 3, 8, dtype)
    expected = values_and_gradients(self_attention, (qkv,), "cpu")
    for count in THREADS:
        with threads(count):
            assert_same_bits(values_and_gradients(self_attention, (qkv,), "cpu"), expected, count)
    with use_backend("cpu"):
        assert torch.equal(self_attention(qkv[2:3]), expected[0][2:3])


@pytest.mark.parametrize("dtype", STORED, ids=str)
@pytest.mark.parametrize("what", [0, 1, 2])
def test_nan_shows_in_its_image_and_head_alone(what, dtype):
    qkv = packed(2, 19, 2, 5, dtype)
    qkv[1, 17, what, 1, 3] = math.nan
    y, _ = values_and_gradients(self_attention, (qkv,), "cpu")
    touched = torch.zeros_like(y, dtype=torch.bool)
    if what == 0:  # a query: its own position
        touched[1, 17, 1] = True
    elif what == 1:  # a key: all positions
        touched[1, :, 1] = True
    else:  # a value: one number of all positions
        touched[1, :, 1, 3] = True
    assert torch.equal(y.isnan(), touched)
