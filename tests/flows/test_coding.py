"""Every layer's coding rule: its forward map on whole numbers, the bits of its log-determinant."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from tests.ops.test_coder import same
from vflow import flows
from vflow.flows.couplings import MixLogisticSpec
from vflow.flows.elementwise import PIXEL_BITS
from vflow.models.builders.steps import Steps
from vflow.nets import LipschitzMLP
from vflow.ops.coder import GRID, Coder

PIXEL_GRID = float(1 << PIXEL_BITS)


class Net(nn.Module):
    """Parameters that depend on every channel of the other half."""

    def __init__(self, first: int, out: int, scale: float = 1.0) -> None:
        super().__init__()
        self.linear, self.scale = nn.Linear(first, out), scale

    def forward(self, x, context=None):
        return self.scale * self.linear(x)


def linear(shape):
    layer = flows.ActNormConv1x1(shape, 0.3)
    nn.init.uniform_(layer.scale, 0.3, 3.0)
    nn.init.normal_(layer.bias)
    return layer


def mixture(squash):
    return flows.MixLogisticCoupling(Net(2, 3 * (2 + 3 * 4), 2.0), 4, squash)


LAYERS = {
    "linear": lambda: linear((4, 6, 3)),
    "mixture, squashed": lambda: mixture(True),
    "mixture": lambda: mixture(False),
    "affine": lambda: flows.AffineCoupling(Net(2, 6, 3.0)),
    "gaussian": lambda: flows.GaussianAffineCoupling(Net(2, 6)),
    "checkerboard": flows.CheckerboardSplit,
    "channels": lambda: flows.ChannelSplit(1),
    "space to depth": flows.SpaceToDepth,
    "flip": flows.TupleFlip,
    "per half": lambda: flows.PerHalf(linear((4, 6, 2)), linear((4, 6, 3))),
    "inverse": lambda: flows.Inverse(mixture(False)),
    "composed": lambda: flows.Compose([mixture(True), flows.TupleFlip(), flows.TupleFlip()]),
    "sigmoid": flows.Sigmoid,
    "pixels": flows.Preprocess,
}
HALVES = {"mixture", "affine", "gaussian", "flip", "per half", "inverse", "composed"}


def values(name, batch=30):
    if name == "pixels":
        return torch.randint(0, 256 << PIXEL_BITS, (batch, 4, 6, 3))
    draw = lambda channels: (torch.randn(batch, 4, 6, channels).double() * GRID).long()  # noqa: E731
    return (draw(2), draw(3)) if name.split(",")[0] in HALVES else draw(3)


def as_real(x, grid=GRID):
    return tuple(part.double() / grid for part in x) if isinstance(x, tuple) else x.double() / grid


def flat(x):
    return torch.cat([part.flatten() for part in x]) if isinstance(x, tuple) else x.flatten()


@pytest.mark.parametrize("name", LAYERS)
@torch.no_grad()
def test_round_trip_map_and_bits(name):
    layer, x = LAYERS[name]().double(), values(name)
    coder = Coder(lend=True)
    coder.pop_bits((100_000,), 32)  # so that the stack has a bottom below this one's
    start = Coder(coder.lanes, lend=False)
    coder.push_bits(torch.randint(0, 1 << 32, (40_000,)), 32)
    start, bits = Coder(coder.lanes, lend=False), coder.bits
    y = layer.code(x, coder)
    real_y, logdet = layer(as_real(x, PIXEL_GRID if name == "pixels" else GRID))
    error = (flat(y) / GRID - flat(real_y)).abs() / (1 + flat(real_y).abs())
    assert error.max() < (0.1 if name == "inverse" else 2e-3)  # its steep places are not smooth
    # Whole numbers over 2^26 on one side and 2^32 on the other are six bits a value apart.
    finer = 6 * x.numel() if name == "pixels" else 0
    expected = bits - coder.bits - finer
    assert abs(expected - logdet.sum().item() / math.log(2)) / flat(y).numel() < 2e-3
    back = layer.code_inverse(y, coder)
    assert torch.equal(flat(back), flat(x))
    assert same(coder, start)


def test_far_and_flat_places_cost_bits_and_never_fail():
    """Where the squash is flat, between narrow components and far outside of them."""
    layer, coder = mixture(True), Coder(lend=True)
    for squash in (True, False):
        layer.squash = squash
        x2 = torch.cat([torch.linspace(-200, 200, 700), torch.randn(2000) * 1e-4]).double()
        x = (torch.randn(2700, 1, 1, 2), x2.view(-1, 1, 1, 1).expand(-1, 1, 1, 3))
        x = tuple((part.double() * GRID).long().contiguous() for part in x)
        layer.net.scale = 30.0  # narrow components, far apart
        y = layer.code(x, coder)
        assert torch.equal(layer.code_inverse(y, coder)[1], x[1])
        # And so have values that no x goes to, where the map is flat.
        step = 0.2 if squash else 0.0
        wild = (x[0], y[1] + (step * torch.randn(y[1].shape).double() * GRID).long())
        back = layer.code_inverse(wild, coder)
        assert torch.equal(layer.code(back, coder)[1], wild[1])


def test_what_has_no_rule_says_so():
    block = flows.ResidualBlock(LipschitzMLP(2, hidden=4, layers=1, coefficient=0.9))
    for call in (block.code, block.code_inverse):
        with pytest.raises(ValueError, match=r"^ResidualBlock has no coding rule"):
            call(torch.zeros(1, 2, dtype=torch.int64), Coder(lend=True))


def test_a_coupling_of_a_model_in_float32():
    mixture = MixLogisticSpec(components=4, squash=True)
    steps = Steps(coupling=mixture, filters=8, blocks=1, heads=2, dropout=0.0, weight_std=0.01)
    layer, coder = steps.make_coupling((4, 4, 2), (4, 4, 3)).eval(), Coder(lend=True)
    x = tuple((torch.randn(2, 4, 4, c).double() * GRID).long() for c in (2, 3))
    with torch.no_grad():
        y = layer.code(x, coder)
        assert torch.equal(layer.code_inverse(y, coder)[1], x[1])
