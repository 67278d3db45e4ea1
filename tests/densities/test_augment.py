"""`vflow.augment`: flows of our own, of a user's, and of zuko, normflows and nflows."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import vflow
from vflow.densities import Augmented, FlowDensity
from vflow.models import GlowConfig

DIMS, EXTRA = 2, 3


class Scaling(nn.Module):
    """A user's own: y = x exp(s)."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(0.3 * torch.randn(shape))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x * self.log_scale.exp(), self.log_scale.sum().expand(len(x))

    def inverse(self, y: Tensor) -> tuple[Tensor, Tensor]:
        return y * (-self.log_scale).exp(), -self.log_scale.sum().expand(len(y))


def ours() -> Any:
    flow = vflow.Glow(GlowConfig(dims=DIMS + EXTRA, hidden=8))
    for parameter in flow.parameters():
        parameter.data.add_(0.3 * torch.randn_like(parameter))
    return flow.flow


def nflows_transform() -> Any:
    transforms = pytest.importorskip("nflows.transforms")
    size = DIMS + EXTRA
    masked = transforms.MaskedAffineAutoregressiveTransform(size, 8)
    return transforms.CompositeTransform([transforms.ReversePermutation(size), masked])


def nflows_flow() -> Any:
    flows = pytest.importorskip("nflows.flows")
    return flows.MaskedAutoregressiveFlow(DIMS + EXTRA, 8, 2, 1)


def normflows_layer() -> Any:
    normflows = pytest.importorskip("normflows")
    return normflows.flows.LULinearPermute(DIMS + EXTRA)


def normflows_flow() -> Any:
    normflows = pytest.importorskip("normflows")
    base = normflows.distributions.DiagGaussian(DIMS + EXTRA)
    base.loc.data.normal_()
    base.log_scale.data.normal_(0, 0.3)
    spline = normflows.flows.AutoregressiveRationalQuadraticSpline
    return normflows.NormalizingFlow(base, [spline(DIMS + EXTRA, 1, 8) for _ in range(2)])


def zuko_flow() -> Any:
    return pytest.importorskip("zuko").flows.NSF(DIMS + EXTRA, transforms=2)


FLOWS: dict[str, Callable[[], Any]] = {
    "ours": ours,
    "own module": lambda: Scaling(DIMS + EXTRA),
    "torch transform": lambda: torch.distributions.AffineTransform(1.0, torch.rand(5) + 0.5),
    "nflows transform": nflows_transform,
    "nflows flow": nflows_flow,
    "normflows layer": normflows_layer,
    "normflows flow": normflows_flow,
    "zuko flow": zuko_flow,
    "zuko lazy transform": lambda: zuko_flow().transform,
    "zuko transform": lambda: zuko_flow().transform(),
}
OWN_LOG_PROB: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "nflows flow": lambda flow, joint: flow.log_prob(joint),
    "normflows flow": lambda flow, joint: flow.log_prob(joint),
    "zuko flow": lambda flow, joint: flow().log_prob(joint),
}
"""What the library itself says of (x, z)."""


@pytest.fixture(params=FLOWS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def normal(eps: Tensor) -> Tensor:
    return -0.5 * (eps.square() + math.log(2 * math.pi)).flatten(1).sum(1)


def test_the_bound_is_the_change_of_variables(name: str) -> None:
    torch.manual_seed(0)
    flow = FLOWS[name]()
    if isinstance(flow, nn.Module):
        flow.double()
    wide = vflow.augment(flow, EXTRA, shape=(DIMS,))
    if name in ("torch transform", "zuko transform"):
        x, eps = torch.randn(4, DIMS), torch.randn(4, EXTRA)
    else:
        x, eps = torch.randn(4, DIMS).double(), torch.randn(4, EXTRA).double()
    latent, bound = wide.encode(x, eps_z=eps)
    joint = torch.cat([x, eps], 1)
    if name in OWN_LOG_PROB:
        expected = OWN_LOG_PROB[name](flow, joint) - normal(eps)
    else:

        def map_joint(values: Tensor) -> Tensor:
            return wide.density.flow(values)[0]  # type: ignore[union-attr]

        jacobian = torch.autograd.functional.jacobian(map_joint, joint)
        blocks = torch.stack([jacobian[i, :, i] for i in range(4)])
        logdet = torch.linalg.slogdet(blocks).logabsdet
        expected = normal(latent) + logdet - normal(eps)
    tolerance = {"rtol": 1e-6, "atol": 1e-8} if x.dtype == torch.float64 else {}
    torch.testing.assert_close(bound, expected, **tolerance)
    torch.testing.assert_close(wide.elbo(x, eps_z=eps), bound)
    back, z = wide.decode_both(latent.detach())
    torch.testing.assert_close(back, x, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(z, eps, rtol=1e-4, atol=1e-4)
    assert wide.sample(3).shape == (3, DIMS)
    assert wide.log_prob(x, samples=5).shape == (4,)


def test_every_parameter_learns(name: str) -> None:
    torch.manual_seed(0)
    flow = FLOWS[name]()
    wide = vflow.augment(flow, EXTRA, "vector-glow", shape=(DIMS,))
    wide.elbo(torch.randn(8, DIMS)).mean().backward()
    for key, parameter in wide.named_parameters():
        assert parameter.grad is not None, key
    if isinstance(flow, nn.Module):
        assert {id(p) for p in flow.parameters()} <= {id(p) for p in wide.parameters()}


def test_an_image_flow_of_a_users_own_is_joined_along_the_channels() -> None:
    wide = vflow.augment(Scaling(5, 4, 4), 2).double()
    x = torch.randn(3, 3, 4, 4, dtype=torch.float64)
    assert wide.elbo(x).shape == (3,)
    assert wide.noise_shapes() == {"eps_z": (2, 4, 4)}
    assert wide.sample(2).shape == (2, 3, 4, 4)


def test_a_layer_of_ours_for_images_has_its_channels_last() -> None:
    flow = vflow.flows.ActNormConv1x1((4, 4, 5))
    wide = vflow.augment(flow, 2, "flow", shape=(4, 4, 3))
    assert wide.elbo(torch.randn(3, 4, 4, 3)).shape == (3,)
    assert wide.sample(2).shape == (2, 4, 4, 3)


def test_importance_sampling_rises_to_the_density() -> None:
    """Of a Gaussian flow and a q that does not fit."""
    wide = vflow.augment(Scaling(DIMS + EXTRA), EXTRA).double()
    x = torch.randn(50, DIMS, dtype=torch.float64)
    scale = wide.density.flow.owner.log_scale[:DIMS].exp()  # type: ignore[union-attr]
    truth = normal(x * scale) + scale.log().sum()
    means = [wide.log_prob(x, samples=n).mean().item() for n in (1, 10, 3000)]
    assert means == sorted(means)
    assert abs(means[-1] - truth.mean().item()) < 0.01
    assert truth.mean().item() - means[0] > 0.02


def test_a_posterior_of_ones_own() -> None:
    def shifted(x: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
        return eps + x.sum(1, keepdim=True), normal(eps)

    wide = vflow.augment(Scaling(5), 3, shifted)
    x, eps = torch.randn(4, 2), torch.randn(4, 3)
    _, z = wide.decode_both(wide.encode(x, eps_z=eps)[0])
    torch.testing.assert_close(z, shifted(x, eps)[0])


class Forgetful(Scaling):
    """With a dropout that would make it no bijection."""

    def __init__(self) -> None:
        super().__init__(5)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return super().forward(self.dropout(x))


def test_dropout_is_off_and_modes_are_kept() -> None:
    flow = Forgetful()
    wide = vflow.augment(flow, 3)
    x = torch.randn(4, 2)
    draws = [wide.log_prob(x, 3, generator=torch.Generator().manual_seed(0)) for _ in range(2)]
    assert torch.equal(*draws)
    assert wide.training
    assert flow.dropout.training
    flow.dropout.eval()
    wide.sample(2)
    assert wide.training
    assert not flow.dropout.training


def test_a_density_can_be_widened_again() -> None:
    inner = vflow.augment(Scaling(5), 2, shape=(3,))
    outer = Augmented(inner, inner.posterior, 1)
    assert outer.shape == (2,)
    assert vflow.augment(FlowDensity(ours(), (5,)), 3).shape == (2,)


class Wrong(Scaling):
    def __init__(self, result: Callable[[Tensor], Any]) -> None:
        super().__init__(5)
        self.result = result

    def forward(self, x: Tensor) -> Any:
        return self.result(x)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: vflow.augment(nn.Linear(2, 2), 1), "flow must have forward and inverse"),
        (lambda: vflow.augment(Scaling(5), 0), "extra_dims must be an integer of at least 1"),
        (lambda: vflow.augment(Scaling(5), 3, "vector-glow"), "shape must be given for posterior"),
        (lambda: vflow.augment(Scaling(5), 3, "norml"), "did you mean normal?"),
        (lambda: vflow.augment(Scaling(5), 3, 7), "posterior must be flow, gaussian"),
        (
            lambda: vflow.augment(Scaling(5, 4, 4), 2, "flow", shape=(3, 4, 4)),
            "must have images [H, W, C]",
        ),
        (lambda: vflow.augment(Scaling(5), 3, shape=(2,), dim=2), "dim must be one of"),
        (
            lambda: vflow.augment(Wrong(lambda x: x), 3).elbo(torch.zeros(4, 2)),
            "Wrong.forward must return (value, log-determinant [B]), got Tensor",
        ),
        (
            lambda: vflow.augment(Wrong(lambda x: (x, x)), 3).elbo(torch.zeros(4, 2)),
            "got a log-determinant of (4, 5) for a batch of 4",
        ),
        (
            lambda: vflow.augment(Scaling(5), 3, shape=(2,)).elbo(torch.zeros(4, 3)),
            "x must have shape [B, 2] with B at least 1, got (4, 3)",
        ),
        (
            lambda: vflow.augment(Scaling(5), 3).elbo(torch.zeros(4, 2), eps_u=None),
            "eps_u must be left out",
        ),
        (lambda: vflow.augment(Scaling(5), 3).sample(2), "must be given, or an x evaluated"),
        (
            lambda: vflow.augment(Scaling(5), 3, lambda x, eps: x).elbo(torch.zeros(4, 2)),
            "posterior must return (z, log q(z|x) [B]), got Tensor",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_input(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match="must") as error:
        call()
    assert message in str(error.value)
    assert "\n" not in str(error.value)
