"""Every layer's coding rule: its forward map on whole numbers, the bits of its log-determinant."""

from __future__ import annotations

import math
import re

import pytest
import torch
from torch import nn

from tests.ops.test_coder import same
from vflow import flows
from vflow.flows import couplings
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


def channel_linear(channels):
    layer = flows.ChannelActNormConv1x1(channels)
    nn.init.uniform_(layer.scale, 0.3, 3.0)
    nn.init.normal_(layer.bias)
    return layer


def actnorm(shape):
    layer = flows.ActNorm(shape)
    nn.init.uniform_(layer.weight, -3.0, 3.0)
    nn.init.normal_(layer.bias)
    return layer


def whitening(channels=3):
    layer = flows.ChannelWhitening(channels)
    nn.init.normal_(layer.mean)
    nn.init.normal_(layer.log_sigma)
    return layer


def mixture(squash):
    return flows.MixLogisticCoupling(Net(2, 3 * (2 + 3 * 4), 2.0), 4, squash)


LAYERS = {
    "linear": lambda: linear((4, 6, 3)),
    "mixture, squashed": lambda: mixture(True),
    "mixture": lambda: mixture(False),
    "affine": lambda: flows.AffineCoupling(Net(2, 6, 3.0)),
    "additive": lambda: couplings.AdditiveCoupling(Net(2, 3, 3.0)),
    "sigmoid affine": lambda: couplings.SigmoidAffineCoupling(Net(2, 6, 3.0)),
    "spline": lambda: couplings.SplineCoupling(Net(2, 3 * 14), 5, 2.0),
    "linear by channel": lambda: channel_linear(3),
    "norm": lambda: actnorm((4, 6, 3)),
    "norm by channel": lambda: actnorm((3,)),
    "top": whitening,
    "factored out": lambda: flows.FactorOut(1, Net(1, 4), whitening(1)),
    "noise factored out": lambda: flows.FactorOut(1, None, channel_linear(1)),
    "twice factored out": lambda: flows.FactorOut(
        2, Net(2, 2), flows.FactorOut(1, Net(1, 2), whitening(1))
    ),
    "conditioned": lambda: flows.Conditioned(flows.AffineCoupling(nn.Identity())),
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
    "centred pixels": flows.Centre,
}
PIXELS = {"pixels", "centred pixels"}
HALVES = {
    "additive",
    "affine",
    "composed",
    "flip",
    "gaussian",
    "inverse",
    "mixture",
    "per half",
    "sigmoid affine",
    "spline",
}


def values(name, batch=30):
    if name in PIXELS:
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
    context = torch.randn(30, 4, 6, 6).double() if name == "conditioned" else None
    y = layer.code(x, coder, context)
    real_y, logdet = layer(as_real(x, PIXEL_GRID if name in PIXELS else GRID), context)
    error = (flat(y) / GRID - flat(real_y)).abs() / (1 + flat(real_y).abs())
    assert error.max() < (0.1 if name == "inverse" else 2e-3)  # its steep places are not smooth
    # Whole numbers over 2^26 on one side and 2^32 on the other are six bits a value apart.
    finer = 6 * x.numel() if name in PIXELS else 0
    expected = bits - coder.bits - finer
    assert abs(expected - logdet.sum().item() / math.log(2)) / flat(y).numel() < 2e-3
    back = layer.code_inverse(y, coder, context)
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


@pytest.mark.parametrize("bound", [0.3, 3.0, 1000.0])
def test_a_spline_of_any_size_and_steepness(bound):
    """Knots that nearly meet, slopes up to 80, values on the bound and far outside of it."""
    layer, coder = couplings.SplineCoupling(nn.Identity(), 6, bound), Coder(lend=True)
    edge = bound + torch.tensor([-1e-5, -(2**-32), 0.0, 2**-32, 1e-5]).double()
    x = torch.cat([torch.linspace(-2, 2, 2990).double() * bound, edge, -edge])
    x = (torch.cat([x, torch.tensor([-1e5, 1e5])]) * GRID).long()
    params = 20 * torch.randn(len(x), 17)
    y = layer.code_elements(x, params, coder)
    assert torch.equal(layer.uncode_elements(y, params, coder), x)
    far = x.abs() > 1.1 * bound * GRID
    assert ((y - x)[far].abs() / (1 + x[far].abs())).max() < 1e-5
    wild = y + torch.randint(-(1 << 20), 1 << 20, y.shape)
    back = layer.uncode_elements(wild, params, coder)
    assert torch.equal(layer.code_elements(back, params, coder), wild)


@pytest.mark.parametrize(
    ("layer", "params", "message"),
    [
        (couplings.AdditiveCoupling(nn.Identity()), [[math.nan]], "an offset must be below 2^18"),
        (couplings.AdditiveCoupling(nn.Identity()), [[1e6]], "an offset must be below 2^18"),
        (couplings.SigmoidAffineCoupling(nn.Identity()), [[0.0, -40.0]], "a scale must be within"),
        (couplings.SplineCoupling(nn.Identity(), 2, 3.0), [[math.inf] * 5], "must be finite"),
        (couplings.SplineCoupling(nn.Identity(), 2, 2e3), [[0.0] * 5], "at most 1024 to be coded"),
    ],
)
def test_parameters_beyond_a_rule_are_refused(layer, params, message):
    for call in (layer.code_elements, layer.uncode_elements):
        with pytest.raises(ValueError, match=re.escape(message)):
            call(torch.zeros(1, dtype=torch.int64), torch.tensor(params), Coder(lend=True))


def test_what_is_outside_of_centred_pixels_is_refused():
    for value in (-(1 << 31) - 1, 1 << 31):
        y = torch.tensor([[value]])
        with pytest.raises(ValueError, match="outside of what its layer can code"):
            flows.Centre().code_inverse(y, Coder(lend=True))


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
