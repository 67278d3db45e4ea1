"""VFlow on vectors: bound, importance sampling against closed forms, density, saving."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import vflow
from vflow.models import VectorVFlow, VectorVFlowConfig


def make(scale: float = 0.2, **changes) -> VectorVFlow:
    torch.manual_seed(0)
    fields = {"extra_dims": 2, "steps": 2, "hidden": 8, **changes}
    model = VectorVFlow(VectorVFlowConfig(**fields)).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(scale * torch.randn_like(parameter))
    return model


def linear_gaussian() -> VectorVFlow:
    """Couplings that are the identity: p(x, z) is Gaussian, q(z|x) one that does not fit."""
    model = make(0.0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".net." not in name:
                parameter.add_(0.08 * torch.randn_like(parameter))
    return model


def gaussian_log_prob(model: VectorVFlow, x: Tensor) -> Tensor:
    """log p(x) in closed form: (x, z) -> latent is affine, and x a part of a Gaussian."""
    total = model.config.total_dims
    with torch.no_grad():
        points = torch.cat([torch.zeros(1, total), torch.eye(total)]).double()
        images, _ = model.flow(points)
    matrix, shift = images[1:] - images[0], images[0]  # latent = (x, z) matrix + shift
    inverse = matrix.inverse()
    mean, covariance = -shift @ inverse, inverse.T @ inverse
    dims = model.config.dims
    marginal = torch.distributions.MultivariateNormal(mean[:dims], covariance[:dims, :dims])
    return marginal.log_prob(x)


def test_importance_sampling_rises_to_the_true_density() -> None:
    model = linear_gaussian()
    source = torch.Generator().manual_seed(0)
    x = 1.5 * torch.randn(400, 2, dtype=torch.float64, generator=source)
    truth = gaussian_log_prob(model, x)
    means, errors = [], []
    for samples in (1, 10, 100, 3000):
        bound = model.log_prob(x, samples, generator=source)
        means.append(bound.mean().item())
        errors.append((bound - truth).abs().mean().item())
    assert means == sorted(means)
    assert errors == sorted(errors, reverse=True)
    assert truth.mean() - means[0] > 0.02, "q does not fit, so that the bound has a gap"
    assert errors[-1] < 0.03
    assert abs(truth.mean().item() - means[-1]) < 0.005


def test_density_integrates_to_one() -> None:
    model = make(0.05)
    axis = torch.linspace(-8, 8, 161, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    log_prob = model.log_prob(grid, samples=30, generator=torch.Generator().manual_seed(0))
    mass = log_prob.exp().sum().item() * (axis[1] - axis[0]).item() ** 2
    assert mass == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("posterior_steps", [0, 1, 2])
@pytest.mark.parametrize("flow", ["glow", "residual"])
def test_bound_is_made_of_its_densities(flow: str, posterior_steps: int) -> None:
    model = make(flow=flow, posterior_steps=posterior_steps)
    x = torch.randn(5, 2, dtype=torch.float64)
    eps = torch.randn(5, 2, dtype=torch.float64)
    z, log_q = model.sample_posterior(x, eps)
    jacobian = torch.autograd.functional.jacobian(lambda e: model.sample_posterior(x, e)[0], eps)
    blocks = torch.stack([jacobian[i, :, i] for i in range(5)])
    normal = torch.distributions.Normal(0, 1)
    expected = normal.log_prob(eps).sum(1) - torch.linalg.slogdet(blocks).logabsdet
    torch.testing.assert_close(log_q, expected)
    latent, elbo = model.encode(x, eps)
    jacobian = torch.autograd.functional.jacobian(
        lambda joint: model.flow(joint)[0], torch.cat([x, z], 1).detach()
    )
    blocks = torch.stack([jacobian[i, :, i] for i in range(5)])
    log_p = normal.log_prob(latent).sum(1) + torch.linalg.slogdet(blocks).logabsdet
    torch.testing.assert_close(elbo, log_p - log_q)
    back = torch.cat(model.decode(latent.detach()), 1)
    torch.testing.assert_close(back, torch.cat([x, z], 1), atol=1e-8, rtol=0)


def test_one_extra_dimension_has_a_gaussian_layer() -> None:
    model = make(0.5, extra_dims=1)
    x = torch.randn(4, 2, dtype=torch.float64)
    low, middle, high = (
        model.sample_posterior(x, torch.full((4, 1), value).double())[0] for value in (-1, 0, 1)
    )
    torch.testing.assert_close(high - middle, middle - low)
    assert (high - low).std() > 0, "its scale depends on x"


def test_seeded_samples() -> None:
    model = make()
    samples = [model.sample(4, generator=torch.Generator().manual_seed(1)) for _ in range(2)]
    assert torch.equal(*samples)
    assert samples[0].shape == (4, 2)


def test_initialisation_and_saving(tmp_path) -> None:
    model = make(0.0)
    x = 5 + 3 * torch.randn(256, 2, dtype=torch.float64)
    model.initialize(x)
    first = model.flow.flows[0]
    torch.testing.assert_close(first.scale[:2] * x.std(0, correction=0), torch.ones(2).double())
    model.save_pretrained(tmp_path / "model")
    loaded = vflow.load_model(tmp_path / "model")
    noise = torch.randn(256, 2, dtype=torch.float64)
    assert torch.equal(loaded.elbo(x, noise), model.elbo(x, noise))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: VectorVFlowConfig(extra_dims=0), "extra_dims must be an integer of at least 1"),
        (lambda: VectorVFlowConfig(flow="spline"), "flow must be one of glow, residual, got"),
        (lambda: VectorVFlowConfig(coefficient=1.0), "coefficient must be a number in (0, 1)"),
        (lambda: make().elbo(torch.zeros(2, 2)), "x must be a tensor of the model's torch.float64"),
        (lambda: make().elbo(torch.zeros(2, 3).double()), "x must have shape [B, 2]"),
        (
            lambda: make().elbo(torch.zeros(2, 2).double(), torch.zeros(3, 2).double()),
            "eps_z must have shape [2, 2]",
        ),
        (lambda: make().log_prob(torch.zeros(2, 2).double(), 0), "samples must be an integer"),
        (lambda: make().decode(torch.zeros(2, 2).double()), "latent must have shape [B, 4]"),
        (lambda: make().sample(0), "n must be an integer of at least 1, got 0"),
        (lambda: make().initialize(torch.zeros(1, 2).double()), "x must have at least 2 rows"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_input(call, message: str) -> None:
    with pytest.raises(ValueError, match="must") as error:
        call()
    assert message in str(error.value)


def test_a_bound_is_a_bound() -> None:
    model = make(0.3)
    x = torch.zeros(1, 2, dtype=torch.float64)
    noise = torch.randn(2000, 2, dtype=torch.float64)
    terms = model.elbo(x.expand(2000, 2), noise)
    assert terms.mean() < terms.logsumexp(0) - math.log(2000)
