"""Weights in half precision, cast at once: the same bits as one by one, in fewer operations."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from vflow.nets import ContextNetwork, Trunk, context, trunk
from vflow.nets.layers import Conv3x3, DataInitialized

BF16 = torch.bfloat16


class Casts(TorchDispatchMode):
    """Counts the casts within."""

    def __init__(self):
        super().__init__()
        self.found = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.found[function.name()] += 1
        return function(*args, **(kwargs or {}))


def _trunk(**options):
    torch.manual_seed(0)
    net = Trunk(
        3, 12, filters=16, blocks=3, heads=4, size=(8, 4), context_channels=64, **options
    ).train()
    net.compute_dtype = BF16
    return net


def _pass(net, *inputs):
    """Output and all gradients of a pass."""
    inputs = [tensor.clone().requires_grad_() for tensor in inputs]
    net.zero_grad()
    torch.manual_seed(1)
    y = net(*inputs)
    y.square().sum().backward()
    return [y.detach(), *(t.grad for t in inputs), *(p.grad for p in net.parameters())]


def _one_by_one(monkeypatch):
    for module in (trunk, context):
        monkeypatch.setattr(module, "half_weights", lambda *_: None)


@pytest.fixture
def convolutions_too(monkeypatch):
    """As on a GPU, where they are no tiles' in float32."""
    monkeypatch.setattr(Conv3x3, "cast_weights", DataInitialized.cast_weights)


@pytest.mark.parametrize("options", [{}, {"dropout": 0.3}, {"weight_norm": True}], ids=str)
@pytest.mark.parametrize("recomputed", [0, 2])
def test_a_network_gives_the_same_bits(options, recomputed, monkeypatch):
    net = _trunk(**options)
    net.recomputed_blocks = recomputed
    inputs = torch.randn(2, 8, 4, 3), torch.randn(2, 8, 4, 64)
    at_once = _pass(net, *inputs)
    _one_by_one(monkeypatch)
    assert all(map(torch.equal, at_once, _pass(net, *inputs)))


def test_a_context_network_gives_the_same_bits(monkeypatch):
    torch.manual_seed(0)
    net = ContextNetwork(3, (8, 8), layers="conv-norm-attention")
    net.compute_dtype = BF16
    at_once = _pass(net, torch.randn(2, 8, 8, 3, generator=torch.Generator().manual_seed(1)))
    _one_by_one(monkeypatch)
    again = _pass(net, torch.randn(2, 8, 8, 3, generator=torch.Generator().manual_seed(1)))
    assert all(map(torch.equal, at_once, again))


@pytest.mark.usefixtures("convolutions_too")
def test_with_convolutions_it_stays_within_the_error_of_the_dtype():
    net = _trunk()
    inputs = torch.randn(2, 8, 4, 3), torch.randn(2, 8, 4, 64)
    half = _pass(net, *inputs)
    net.compute_dtype = None
    for found, expected in zip(half, _pass(net, *inputs), strict=True):
        error = (found - expected).norm() / expected.norm()
        assert error < 0.05
        assert found.dtype == torch.float32


@pytest.mark.usefixtures("convolutions_too")
def test_casts_are_a_few_for_any_number_of_blocks(monkeypatch):
    net = _trunk()
    inputs = torch.randn(2, 8, 4, 3), torch.randn(2, 8, 4, 64)
    with Casts() as counted:
        _pass(net, *inputs)
    at_once = counted.found["aten::_to_copy"]
    assert counted.found["aten::_foreach_copy_"] == 2
    _one_by_one(monkeypatch)
    with Casts() as counted:
        _pass(net, *inputs)
    assert at_once <= 10
    assert counted.found["aten::_to_copy"] > 40


def test_gradients_of_gradients_and_torch_func(monkeypatch):
    net, x = _trunk(), torch.randn(1, 8, 4, 3, requires_grad=True)
    given = torch.randn(1, 8, 4, 64)

    def twice():
        (first,) = torch.autograd.grad(net(x, given).square().sum(), x, create_graph=True)
        return torch.autograd.grad(first.square().sum(), list(net.parameters()), allow_unused=True)

    def function():
        return (torch.func.grad(lambda x: net(x, given).square().sum())(x),)

    found = [*twice(), *function()]
    _one_by_one(monkeypatch)
    for ours, expected in zip(found, [*twice(), *function()], strict=True):
        assert (ours is None) == (expected is None)
        assert ours is None or torch.equal(ours, expected)


def test_without_gradients():
    net = _trunk()
    with torch.no_grad():
        assert torch.equal(
            net(torch.ones(1, 8, 4, 3), torch.ones(1, 8, 4, 64)),
            net.eval()(torch.ones(1, 8, 4, 3), torch.ones(1, 8, 4, 64)),
        )


def test_what_a_hook_does_to_a_weight_counts():
    """As data-dependent initialisation does, on the first input that a map sees."""
    net, inputs = _trunk(), (torch.ones(1, 8, 4, 3), torch.ones(1, 8, 4, 64))
    layer = net.blocks[0].conv.conv2

    def zero(module, _):
        module.weight.zero_()

    with torch.no_grad():
        before = net(*inputs)
        layer.register_forward_pre_hook(zero)
        found = net(*inputs)
        assert not torch.equal(found, before)
        assert torch.equal(net(*inputs), found)


@pytest.mark.parametrize("layers", ["conv", "conv-norm-attention"])
def test_float64_stays_what_it_is_as_under_autocast(layers):
    net = _trunk().double()
    reads = ContextNetwork(3, (8, 8), layers=layers).double()
    x = torch.randn(2, 8, 4, 3, dtype=torch.float64)
    features = reads(torch.randn(2, 8, 8, 3, dtype=torch.float64))
    found = net(x, features)
    net.compute_dtype = None
    assert torch.equal(found, net(x, features))
    reads.compute_dtype = BF16
    assert reads(torch.randn(2, 8, 8, 3, dtype=torch.float64)).dtype == torch.float64
