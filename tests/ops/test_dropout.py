"""Dropout, alone and within concat_elu: which elements, how many, from which generator."""

from __future__ import annotations

import math

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from tests.ops.inputs import plain_concat_elu
from tests.ops.philox import KNOWN_ANSWERS, kept, philox
from vflow import ops
from vflow.ops.backend import describe
from vflow.ops.concat_elu import _concat_elu_dropout
from vflow.ops.dropout import _dropout, draw_seeds
from vflow.ops.reference.dropout import dropout_factors
from vflow.ops.reference.dropout import philox as reference_philox

BACKENDS = [b for b in ("reference", "cpu") if describe()["dropout"][b] == "available"]
PUBLIC = {"dropout": ops.dropout, "concat_elu": ops.concat_elu}


@pytest.fixture(params=BACKENDS)
def backend(request):
    with ops.use_backend(request.param):
        yield request.param


def words(*numbers):
    return [torch.tensor([n]) for n in numbers]


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN_ANSWERS)
def test_known_answers(counter, key, answer):
    assert philox(counter, key) == answer
    assert tuple(int(w) for w in reference_philox(words(*counter), words(*key))) == answer


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("row", range(4))
def test_a_known_word_is_the_threshold(row):
    """The first of Random123's answers, to the bit: kept at its own word, dropped one above."""
    word = KNOWN_ANSWERS[0][2][row]
    ones, seed = torch.ones(4, 1), torch.zeros(2, dtype=torch.int64)
    assert _dropout(ones, seed, word / 2**32)[row] > 0
    assert _dropout(ones, seed, (word + 1) / 2**32)[row] == 0


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (4, 16), (9, 33), (6, 70)], ids=str)
@pytest.mark.parametrize("seed", [(1, 2), (0xFFFFFFFF, 0), (0x80000000, 0xDEADBEEF)], ids=str)
def test_the_mask_is_the_one_that_is_defined(shape, seed):
    x, tensor = torch.ones(shape), torch.tensor(seed)
    expected = kept(*shape, seed, 0.4)
    assert torch.equal(_dropout(x, tensor, 0.4), expected / (1 - 0.4))
    rows, channels = shape
    halves = kept(2 * rows, channels, seed, 0.4).view(rows, 2 * channels)
    assert torch.equal(_concat_elu_dropout(x, tensor, 0.4) != 0, halves)


def test_counters_go_on_beyond_32_bits():
    """No such tensor fits here; what can be looked at is the arithmetic of the counter."""
    index = torch.tensor([(1 << 32) + 5])
    found = reference_philox([index & 0xFFFFFFFF, index >> 32, *words(0, 0)], words(3, 4))
    assert tuple(int(w) for w in found) == philox((5, 1, 0, 0), (3, 4))


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("dropout", [0.01, 0.2, 0.5, 0.99])
def test_rate_and_scale(dropout):
    x = torch.ones(1000, 1003)
    y = ops.dropout(x, dropout)
    tolerance = 5 * math.sqrt(dropout * (1 - dropout) / x.numel())
    rate = (y == 0).double().mean().item()
    assert abs(rate - dropout) < tolerance
    assert torch.equal(y[y != 0].unique(), torch.tensor([1 / (1 - dropout)]))
    both = ops.concat_elu(x, dropout)
    for half in both.chunk(2, dim=-1):
        assert abs((half == 0).double().mean().item() - dropout) < tolerance
    # Neighbours in a row, in a column and in the two halves are dropped independently.
    gone = (both == 0).double() - dropout
    for a, b in (
        (gone[:, 1:], gone[:, :-1]),
        (gone[1:], gone[:-1]),
        (gone[4:], gone[:-4]),
        (gone[:, :1003], gone[:, 1003:]),
    ):
        deviation = dropout * (1 - dropout) / math.sqrt(a.numel())
        assert abs((a * b).mean().item()) < 5 * deviation


@pytest.mark.usefixtures("backend")
def test_gradients_have_the_mask_of_the_forward_pass():
    x = torch.randn(50, 24, dtype=torch.float64, requires_grad=True)
    grad = torch.randn(50, 48, dtype=torch.float64)
    y = ops.concat_elu(x, 0.3)
    plain = plain_concat_elu(x)
    mask = (y != 0).double() / 0.7
    torch.testing.assert_close(y, plain * mask)
    (ours,) = torch.autograd.grad(y, x, grad)
    (expected,) = torch.autograd.grad(plain, x, grad * mask)
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)
    y = ops.dropout(x, 0.3)
    (ours,) = torch.autograd.grad(y.sum(), x)
    assert torch.equal(ours, (y != 0).double() / 0.7)


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("function", PUBLIC.values(), ids=PUBLIC)
def test_pytorch_s_generator_decides(function):
    x = torch.randn(8, 40)
    torch.manual_seed(1)
    first, second = function(x, 0.5), function(x, 0.5)
    assert not torch.equal(first, second)
    torch.manual_seed(1)
    assert torch.equal(function(x, 0.5), first)
    assert torch.equal(function(x, 0.5), second)


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("function", PUBLIC.values(), ids=PUBLIC)
def test_a_seed_that_is_given_decides(function):
    x = torch.randn(8, 40)
    torch.manual_seed(1)
    drawn = [function(x, 0.5), function(x, 0.5)]
    torch.manual_seed(1)
    seeds = draw_seeds(2, x.device)
    state = torch.get_rng_state()
    for seed, expected in zip(seeds, drawn, strict=True):
        assert torch.equal(function(x, 0.5, seed), expected)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("function", PUBLIC.values(), ids=PUBLIC)
@pytest.mark.parametrize(
    ("seed", "what"),
    [
        (3, "got 3"),
        (torch.zeros(2), r"got torch.float32 \[2\]"),
        (torch.zeros(3, dtype=torch.int64), r"got torch.int64 \[3\]"),
        (torch.zeros(2, dtype=torch.int64, device="meta"), "must be on cpu"),
    ],
)
def test_what_is_no_seed(function, seed, what):
    with pytest.raises(ValueError, match=what):
        function(torch.ones(3, 4), 0.5, seed)


@pytest.mark.usefixtures("backend")
def test_no_dropout_is_nothing_at_all():
    x = torch.randn(3, 5)
    state = torch.get_rng_state()
    assert ops.dropout(x, 0) is x
    assert torch.equal(ops.concat_elu(x, 0), ops.concat_elu(x))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("reentrant", [False, True])
def test_recomputed_under_checkpoint(reentrant):
    """The second forward pass draws the seed of the first, and so drops the same elements."""
    weight = torch.randn(16, 16)

    def network(x):
        return ops.dropout(ops.concat_elu(ops.concat_elu(x, 0.4)[..., :16] @ weight, 0.4), 0.4)

    results = []
    for run in (network, lambda x: checkpoint(network, x, use_reentrant=reentrant)):
        torch.manual_seed(3)
        x = torch.linspace(-2, 2, 160).view(10, 16).requires_grad_()
        y = run(x)
        torch.rand(7)  # between the two, somebody else draws
        y.square().sum().backward()
        results.append((y.detach(), x.grad))
    for plain, recomputed in zip(*results, strict=True):
        assert torch.equal(plain, recomputed)


@pytest.mark.parametrize("function", PUBLIC.values(), ids=PUBLIC)
def test_compiles_whole_with_dynamic_batch(function):
    torch._dynamo.reset()
    graphs = 0

    def count(module, example_inputs):
        nonlocal graphs
        graphs += 1
        return module.forward

    compiled = torch.compile(
        lambda x: function(x, 0.3), fullgraph=True, dynamic=True, backend=count
    )
    for batch in (7, 11, 13):
        x = torch.randn(batch, 3, 5)
        torch.manual_seed(batch)
        expected = function(x, 0.3)
        torch.manual_seed(batch)
        assert torch.equal(compiled(x), expected)
    assert graphs == 1, "a new batch size was compiled anew"


@pytest.mark.parametrize("function", PUBLIC.values(), ids=PUBLIC)
def test_a_compiled_program_draws_anew(function):
    """Inductor has its own generator, seeded by PyTorch's: other masks, one for each call."""
    torch._dynamo.reset()
    compiled = torch.compile(lambda x: function(x, 0.5), fullgraph=True)
    x = torch.ones(40, 40, requires_grad=True)
    torch.manual_seed(0)
    first, second = compiled(x), compiled(x)
    assert not torch.equal(first, second)
    torch.manual_seed(0)
    assert torch.equal(compiled(x), first)
    (grad,) = torch.autograd.grad(first.sum(), x)
    expected = (first[:, :40] != 0) * 2.0  # of concat_elu: where x is 1, the slope is 1 ...
    if function is ops.concat_elu:
        expected -= (first[:, 40:] != 0) * (2 * math.exp(-1))  # ... and of its negative -exp(-1)
    torch.testing.assert_close(grad, expected)


@pytest.mark.usefixtures("backend")
def test_nan_stays_where_it_is():
    x = torch.full((8, 8), math.nan)
    assert ops.dropout(x, 0.5).isnan().all()
    assert ops.concat_elu(x, 0.5).isnan().all()


def test_factors_are_those_of_every_dtype():
    seed = torch.tensor([5, 6])
    exact = dropout_factors(torch.ones(9, 7, dtype=torch.float64), seed, 0.3)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        factors = dropout_factors(torch.ones(9, 7, dtype=dtype), seed, 0.3)
        assert torch.equal(factors, exact.float())
