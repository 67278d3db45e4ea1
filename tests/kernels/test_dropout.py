"""The dropout kernels, alone and with concat_elu: the mask as defined, the reference's values."""

from __future__ import annotations

import pytest
import torch

from tests.kernels.agreement import DEVICE, DTYPES, assert_agrees, assert_same_bits, to_device
from tests.ops.philox import KNOWN_ANSWERS, kept
from vflow.ops.reference import concat_elu, dropout

P = 0.3
SEED = torch.tensor([0xFFFFFFFF, 0x80000001])


@pytest.fixture(params=["dropout", "concat_elu_dropout", "concat_elu_dropout_backward"])
def pair(request, kernels):
    """A launcher and its reference, as functions of their floating inputs; how many those are."""
    name = request.param
    module = kernels.dropout if name == "dropout" else kernels.concat_elu_dropout
    launch = getattr(module, name)
    reference = getattr(dropout if name == "dropout" else concat_elu, name)
    return (
        lambda *tensors: launch(*tensors, SEED.to(DEVICE), P),
        lambda *tensors: reference(*tensors, SEED, P),
        2 if name.endswith("backward") else 1,
    )


def make(count, shape, channels, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    x = 2 * torch.randn(*shape, channels, generator=generator)
    grad = torch.randn(*shape, 2 * channels, generator=generator)
    return to_device(*(t.to(dtype) for t in (grad, x)[2 - count :]))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("channels", [1, 3, 16, 33, 96, 1500])
def test_agrees_with_the_reference(pair, channels, dtype):
    launch, reference, count = pair
    for shape in ((3, 5), (1,)):
        inputs = make(count, shape, channels, dtype)
        assert_agrees(launch, reference, inputs)
        zeros = launch(*inputs).cpu() == 0
        assert torch.equal(zeros, reference(*(t.cpu() for t in inputs)) == 0)


@pytest.mark.parametrize("row", range(4))
def test_a_known_word_is_the_threshold(kernels, row):
    """The first of Random123's answers, to the bit: kept at its own word, dropped one above."""
    word = KNOWN_ANSWERS[0][2][row]
    ones, seed = to_device(torch.ones(4, 1), torch.zeros(2, dtype=torch.int64))
    assert kernels.dropout.dropout(ones, seed, word / 2**32)[row] > 0
    assert kernels.dropout.dropout(ones, seed, (word + 1) / 2**32)[row] == 0


@pytest.mark.parametrize("shape", [(1, 1), (9, 33), (70, 40)], ids=str)
def test_the_mask_is_the_one_that_is_defined(kernels, shape):
    x, seed = to_device(torch.ones(shape), SEED)
    expected = kept(*shape, tuple(SEED.tolist()), 0.9)  # a threshold above 2^31
    assert torch.equal(kernels.dropout.dropout(x, seed, 0.9).cpu() != 0, expected)


def test_views_and_bits(pair):
    launch, _, count = pair
    inputs = make(count, (4, 6), 5)
    for cut in (lambda t: t[:, ::2], lambda t: t.transpose(0, 1), lambda t: t[:1].expand(4, 6, -1)):
        views = tuple(cut(t) for t in inputs)
        assert_same_bits(launch, views, tuple(t.contiguous() for t in views))


def test_empty(pair):
    launch, reference, count = pair
    inputs = make(count, (0, 3), 4)
    assert launch(*inputs).shape == reference(*(t.cpu() for t in inputs)).shape
