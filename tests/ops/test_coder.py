"""The coder: what it pushes it pops, and it costs what it should."""

from __future__ import annotations

import ctypes
import math

import numpy as np
import pytest
import torch

from vflow.ops import coder as coder_module
from vflow.ops import exact
from vflow.ops.coder import GRID, LANES, LEAST_STATE, START_STATE, Affine, Coder, Lane
from vflow.ops.lifting import LinearPlan
from vflow.ops.normal_masses import normal_starts


def filled(words: int = 4000) -> Coder:
    """A decoder's coder with random bits on it, the same every time."""
    random = np.random.default_rng(0)
    return Coder(
        [
            Lane(LEAST_STATE + i, random.integers(0, 1 << 32, words, np.uint32))
            for i in range(LANES)
        ],
        lend=False,
    )


def same(first: Coder, second: Coder) -> bool:
    return all(
        a.state == b.state and np.array_equal(a.words, b.words)
        for a, b in zip(first.lanes, second.lanes, strict=True)
    )


def edges_of(cells: int) -> torch.Tensor:
    return torch.cumsum(torch.randint(1, 1 << 30, (cells + 1,)), 0)


PAIRS = {
    "bits": (lambda c: c.pop_bits((3, 501), 26), lambda c, y: c.push_bits(y, 26)),
    "no bits": (lambda c: c.pop_bits((64,), 0), lambda c, y: c.push_bits(y, 0)),
    "words": (lambda c: c.pop_bits((5, 100), 32), lambda c, y: c.push_bits(y, 32)),
    "normal": (lambda c: c.pop_normal((7, 211)), lambda c, y: c.push_normal(y)),
}


@pytest.mark.parametrize("name", PAIRS)
def test_what_is_popped_goes_back(name):
    pop, push = PAIRS[name]
    coder = filled()
    push(coder, pop(coder))
    assert same(coder, filled())


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_lanes_and_not_threads_decide(threads):
    torch.set_num_threads(threads)
    coder = filled()
    found = coder.pop_normal((999,))
    torch.set_num_threads(1)
    assert torch.equal(found, filled().pop_normal((999,)))


def test_a_sequence_comes_back():
    """Pops and pushes of every kind, mixed, undone in reverse."""
    coder, steps = filled(), []
    weight = torch.randn(6, 6, dtype=torch.float64)
    plan = LinearPlan(torch.rand(4, 6).double() + 0.5, torch.randn(4, 6).double(), weight)
    params = torch.randn(40, 4, 6, 2 + 3 * 3)
    x = coder.pop_normal((40, 4, 6))
    for squash in (True, False):
        y = coder.mixture(x, params, squash)
        z = plan.forward(y, coder)
        assert torch.equal(plan.inverse(z, Coder(coder.lanes, lend=False)), y)
        steps.append((squash, z))
        x = z
    for squash, z in reversed(steps):
        assert torch.equal(x, z)
        x = coder.mixture_inverse(plan.inverse(z, coder), params, squash)
    coder.push_normal(x)
    assert same(coder, filled())


def test_the_loss_of_an_operation_is_below_1e_5_bits():
    coder, count = Coder(lend=True), 400_000
    x = torch.randint(0, 1 << 26, (count,))
    before = coder.bits
    coder.push_bits(x, 26)
    assert abs((coder.bits - before) / count - 26) < 1e-5
    # Scales: exactly the logarithm of the factors, in the mean over values.
    slope = torch.rand(count, dtype=torch.float64) * 3 + 0.01
    scale = Affine(slope, torch.zeros_like(slope))
    before = coder.bits
    coder.affine(x, scale)
    factor = scale.arrays[0].double() / torch.pow(2.0, scale.arrays[1].double())
    assert abs((coder.bits - before + factor.log2().sum().item()) / count) < 1e-5


def test_the_normal_code_is_as_short_as_its_entropy():
    """Cost over entropy: the Kullback-Leibler divergence from the bins, by the table alone."""
    starts = normal_starts().astype(np.float64)
    masses = np.diff(starts) / 2**20
    edges = np.concatenate(
        [np.arange(-6, -4, 1 / 4), np.arange(-4, 4, 1 / 64), np.arange(4, 6 + 1 / 8, 1 / 4)]
    )
    cdf = np.array([0.5 * math.erfc(-edge / math.sqrt(2)) for edge in edges])
    true = np.diff(cdf)
    assert len(true) == len(masses) - 1
    bins = (true * np.log2(true / masses[:-1])).sum()
    within = (1 / 64) ** 2 / 24 * math.log2(math.e)  # of a bin that counts as flat
    assert 0 <= bins < 3e-5
    assert bins + within < 5e-5
    assert (masses > 0).all()
    # And the coder does as the table says.
    coder, count = Coder(lend=True), 300_000
    x = (torch.randn(count, dtype=torch.float64) * GRID).round().long()
    before = coder.bits
    coder.push_normal(x)
    entropy = (0.5 * (x / GRID) ** 2).sum().item() / math.log(2) / count
    entropy += math.log2(GRID * math.sqrt(2 * math.pi))
    assert abs((coder.bits - before) / count - entropy) < 1e-3


def test_far_out_values_have_a_place():
    coder = filled()
    x = [0, -1, 1 << 34, -(1 << 34), (6 << 32) - 1, 6 << 32, -(1 << 62), (1 << 62) - 1]
    x = torch.tensor(x)
    coder.push_normal(x)
    assert torch.equal(coder.pop_normal((len(x),)), x)
    assert same(coder, filled())


def test_what_is_popped_by_chance_is_never_far_out():
    """Of a million normal numbers about one is beyond the bins, and no further than a little."""
    coder = Coder(lend=True)
    x = coder.pop_normal((8_000_000,)) / GRID
    assert (x.abs() > 6).any()
    assert x.abs().max() < 8
    assert abs(x.std().item() - 1) < 2e-3


def test_an_empty_stack_is_lent_bits_or_refuses():
    with pytest.raises(ValueError, match="the coder has no bits left"):
        Coder(lend=False).pop_bits((64,), 32)
    coder = Coder(lend=True)
    x = coder.pop_normal((1000,))
    assert coder.lent_words.sum() > 900
    assert abs((x / GRID).std().item() - 1) < 0.1
    coder.push_normal(x)
    lanes = coder.lanes
    assert [len(lane.words) for lane in lanes] == coder.lent_words.tolist()
    assert all(lane.state == START_STATE for lane in lanes)


def test_tables_come_back_and_refuse_what_is_outside():
    edges, coder = edges_of(50), filled()
    x = torch.randint(-20 << 12, 30 << 12, (3000,))
    y = coder.table(x, edges, 12, first=-20)
    cell = (x >> 12) + 20
    assert ((y >= edges[cell]) & (y < edges[cell + 1])).all()
    assert torch.equal(coder.table_inverse(y, edges, 12, first=-20), x)
    assert same(coder, filled())
    for outside in (-(20 << 12) - 1, 30 << 12):
        with pytest.raises(ValueError, match="outside of what its layer can code"):
            coder.table(torch.tensor([outside]), edges, 12, first=-20)
    for outside in (edges[0] - 1, edges[-1]):
        with pytest.raises(ValueError, match="outside of what its layer can code"):
            coder.table_inverse(outside[None], edges, 12, first=-20)


@pytest.mark.parametrize("channels", [1, 2, 3, 12, 24])
def test_a_linear_plan_is_the_linear_map(channels):
    torch.manual_seed(channels)
    weight = torch.eye(channels) + 0.3 * torch.randn(channels, channels)
    weight, scale = weight.double().flip(0), torch.rand(5, channels).double() + 0.1
    scale[0, 0], bias = 1e-3, torch.randn(5, channels).double()
    plan, coder = LinearPlan(scale, bias, weight), filled(20000)
    x = (torch.randn(100, 5, channels).double() * GRID).round().long()
    y = plan.forward(x, coder)
    expected = (x / GRID * scale + bias) @ weight
    assert (y / GRID - expected).abs().max() < 1e-4
    assert torch.equal(plan.inverse(y, coder), x)
    assert same(coder, filled(20000))


@pytest.mark.parametrize(
    ("slope", "offset"),
    [(0.0, 0.0), (math.nan, 0.0), (math.inf, 0.0), (1e-20, 0.0), (2.0**21, 0.0), (1.0, 1e6)],
)
def test_scales_beyond_the_coder_are_refused(slope, offset):
    arrays = (torch.tensor([value], dtype=torch.float64) for value in (slope, offset))
    with pytest.raises(ValueError, match=r"^a scale must be within 2\^-42 and 2\^20"):
        Affine(*arrays)


def test_a_singular_weight_is_refused():
    ones = torch.ones(3, dtype=torch.float64)
    with pytest.raises(ValueError, match="singular"):
        LinearPlan(ones, ones, torch.ones(3, 3, dtype=torch.float64))


@pytest.mark.parametrize(
    "call",
    [
        lambda c: c.push_bits(torch.tensor([-1]), 8),
        lambda c: c.push_bits(torch.tensor([256]), 8),
        lambda c: c.affine(torch.tensor([1 << 43]), Affine(*torch.ones(2, 1).double())),
        lambda c: c.affine_inverse(torch.tensor([1 << 60]), Affine(*torch.ones(2, 1).double())),
        lambda c: c.mixture(torch.tensor([[1 << 60]]), torch.zeros(1, 1, 5), True),
        lambda c: c.mixture_inverse(torch.tensor([[1 << 60]]), torch.zeros(1, 1, 5), False),
        lambda c: c.mixture(torch.tensor([[0]]), torch.full((1, 1, 5), math.nan), True),
    ],
)
def test_numbers_beyond_the_coder_are_refused(call):
    with pytest.raises(ValueError, match="a number is out of the coder's range"):
        call(filled())


def test_growing_keeps_what_is_there():
    coder = Coder(lend=True)
    x = torch.randint(0, 1 << 32, (50_000,))
    coder.push_bits(x, 32)
    assert torch.equal(coder.pop_bits((50_000,), 32), x)
    assert coder_module.LANES == 8  # of the format


@pytest.mark.parametrize("matrix", [math.inf, math.nan, 1e9])
def test_a_triangle_that_doubles_do_not_hold_is_refused(matrix):
    x = torch.full((100, 3), 1 << 40)
    triangle = torch.eye(3, dtype=torch.float64)
    triangle[0, 2] = matrix
    with pytest.raises(ValueError, match="a number is out of the coder's range"):
        exact.lift(x, triangle, upper=True)


def test_what_a_scale_makes_too_large_to_undo_is_refused():
    """Encoding refuses it, not decoding."""
    scale = Affine(torch.tensor([2.0**19]).double(), torch.zeros(1).double())
    with pytest.raises(ValueError, match="a number is out of the coder's range"):
        filled().affine(torch.tensor([1 << 41]), scale)
    coder, x = filled(), torch.tensor([1 << 31])
    assert torch.equal(coder.affine_inverse(coder.affine(x, scale), scale), x)


@pytest.mark.parametrize("grid", [32, 33, 34])
def test_the_farthest_normal_numbers(grid):
    table = ctypes.c_void_p(normal_starts().ctypes.data)

    def call(name: str, x: torch.Tensor, coder: Coder) -> None:
        coder._call(name, 2 * x.numel(), exact.pointer(x), x.numel(), grid, table)

    most = (1 << 62) - 1
    x = torch.tensor([most, -most - 1, most - (1 << 34), 0, 1 << 61, -(1 << 61), 7 << grid] * 4)
    coder, back = filled(), torch.empty_like(x)
    call("push_normal", x, coder)
    call("pop_normal", back, coder)
    assert torch.equal(x, back)
    assert same(coder, filled())
    for beyond in (most + 1, -most - 2):
        with pytest.raises(ValueError, match="a number is out of the coder's range"):
            call("push_normal", torch.tensor([beyond]), filled())
    # What nobody has pushed: on to the next stretch, and on.
    ones = Lane((1 << 64) - 1, np.full(100, (1 << 32) - 1, np.uint32))
    with pytest.raises(ValueError, match="a number is out of the coder's range"):
        call("pop_normal", back, Coder([ones] * LANES, lend=False))
