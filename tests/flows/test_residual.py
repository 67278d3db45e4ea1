"""Invertible residual blocks: contraction, inverse, exact and estimated log-determinants."""

from __future__ import annotations

import pytest
import torch

from vflow.flows import ResidualBlock
from vflow.flows.residual import _geometric
from vflow.models import ResidualFlow, ResidualFlowConfig
from vflow.nets import LipschitzMLP


def block(dims: int, coefficient: float = 0.9) -> ResidualBlock:
    torch.manual_seed(0)
    net = LipschitzMLP(dims, hidden=16, layers=2, coefficient=coefficient).double()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(5)  # far above the bound, so that it acts
    return ResidualBlock(net)


@pytest.mark.parametrize("dims", [1, 2, 7, 17, 40])
def test_round_trip_and_jacobian(dims: int) -> None:
    flow, x = block(dims), 3 * torch.randn(5, dims, dtype=torch.float64)
    y, logdet = flow(x)
    jacobian = torch.autograd.functional.jacobian(lambda t: flow(t)[0], x)
    blocks = torch.stack([jacobian[i, :, i] for i in range(5)])
    torch.testing.assert_close(torch.linalg.slogdet(blocks).logabsdet, logdet)
    assert logdet.abs().max() > 0.01
    back, inverse_logdet = flow.inverse(y)
    torch.testing.assert_close(back, x, atol=1e-12, rtol=0)
    torch.testing.assert_close(inverse_logdet, -logdet)


def test_network_is_a_contraction() -> None:
    net = block(3).net
    for weight in net.weights():
        assert torch.linalg.matrix_norm(weight, ord=2) <= net.bound * (1 + 1e-12)
    a, b = torch.randn(2, 1000, 3, dtype=torch.float64) * 5
    assert ((net(a) - net(b)).norm(dim=1) / (a - b).norm(dim=1)).max() < 0.9


def test_small_matrices_are_left_alone() -> None:
    net = LipschitzMLP(2, hidden=4, layers=1, coefficient=0.9)
    with torch.no_grad():
        net.linears[0].weight.mul_(0.01)
    assert torch.equal(net.weights()[0], net.linears[0].weight)


def test_estimated_logdet_and_its_gradient_are_unbiased() -> None:
    flow = block(3, coefficient=0.5)
    x = torch.randn(1, 3, dtype=torch.float64)
    weight = flow.net.linears[0].weight
    truth = flow(x)[1]
    (truth_gradient,) = torch.autograd.grad(truth.sum(), weight)
    repeats, rows = 150, 400
    estimates, gradients = [], []
    for _ in range(repeats):  # each has a length of its own
        logdet = flow.estimate(x.expand(rows, 3))[1]
        estimates.append(logdet.mean().detach())
        gradients.append(torch.autograd.grad(logdet.mean(), weight)[0])
    for found, expected in ((estimates, truth), (gradients, truth_gradient)):
        values = torch.stack(found)
        spread = values.std(0) / repeats**0.5 + 1e-6
        assert ((values.mean(0) - expected).abs() < 5 * spread).all()
    assert torch.stack(estimates).std() > 0


def model_of(dims: int) -> ResidualFlow:
    torch.manual_seed(0)
    model = ResidualFlow(ResidualFlowConfig(dims=dims, steps=2, hidden=16)).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize("training", [True, False])
def test_log_prob_is_the_same_every_time_in_any_number_of_dimensions(training: bool) -> None:
    model = model_of(20).train(training)
    x = torch.randn(4, 20, dtype=torch.float64)
    first = model.log_prob(x)
    assert torch.equal(model.log_prob(x), first)
    jacobian = torch.autograd.functional.jacobian(lambda t: model.flow(t)[0], x)
    blocks = torch.stack([jacobian[i, :, i] for i in range(4)])
    normal = torch.distributions.Normal(0, 1).log_prob(model.encode(x)[0]).sum(1)
    torch.testing.assert_close(first, normal + torch.linalg.slogdet(blocks).logabsdet)


def test_the_estimate_is_asked_for_and_its_noise_is_the_generators() -> None:
    model, x = model_of(20), torch.randn(4, 20, dtype=torch.float64)
    state = torch.get_rng_state()
    first, again, other = (
        model.estimate_log_prob(x, generator=torch.Generator().manual_seed(seed))
        for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state), "the global generator was touched"
    assert not torch.equal(first, model.log_prob(x))


def test_the_length_of_the_series_is_geometric() -> None:
    coins = torch.linspace(0, 1, 1 << 12, dtype=torch.float64)[:-1].tolist()
    lengths = torch.tensor([_geometric(coin) for coin in coins], dtype=torch.float64)
    for n in range(4):
        assert (lengths == n).double().mean().item() == pytest.approx(0.5 ** (n + 1), abs=2e-3)


def test_density_integrates_to_one() -> None:
    torch.manual_seed(0)
    model = ResidualFlow(ResidualFlowConfig(steps=2, hidden=8)).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    axis = torch.linspace(-30, 30, 400, dtype=torch.float64)
    with torch.no_grad():
        log_prob = model.log_prob(torch.cartesian_prod(axis, axis))
    mass = log_prob.exp().sum().item() * (axis[1] - axis[0]).item() ** 2
    assert mass == pytest.approx(1, abs=0.01)
    x = model.sample(5, generator=torch.Generator().manual_seed(0))
    eps, logdet = model.encode(x)
    back, inverse_logdet = model.decode(eps.detach())
    torch.testing.assert_close(back, x)
    torch.testing.assert_close(inverse_logdet, -logdet)
