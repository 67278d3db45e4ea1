"""The stacked fast path is the library's models: bounds, gradients, importance sampling, paths."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vflow.models import Glow, GlowConfig, VectorVFlow, VectorVFlowConfig
from vflow.toy.stacked import Model, Stack

SIZES = [(2, 1, 0), (2, 3, 0), (3, 2, 1), (10, 2, 1), (4, 1, 0), (5, 1, 2)]


def make(dims: int, steps: int, posterior_steps: int, negative_slope: float = 0.1) -> list[Model]:
    models: list[Model] = []
    for seed in range(3):
        torch.manual_seed(seed)
        model: Model
        if dims == 2:
            model = Glow(
                GlowConfig(dims=dims, steps=steps, hidden=7, negative_slope=negative_slope)
            )
        else:
            model = VectorVFlow(
                VectorVFlowConfig(
                    extra_dims=dims - 2,
                    steps=steps,
                    posterior_steps=posterior_steps,
                    hidden=7,
                    negative_slope=negative_slope,
                )
            )
        models.append(model.double())
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
    return models


def inputs(stack: Stack, batch: int = 6) -> tuple[Tensor, Tensor | None]:
    torch.manual_seed(7)
    x = 2 * torch.randn(len(stack), batch, stack.dims, dtype=torch.float64)
    if not stack.extra_dims:
        return x, None
    return x, torch.randn(len(stack), batch, stack.extra_dims, dtype=torch.float64)


def bound(model: Model, x: Tensor, eps: Tensor | None) -> Tensor:
    return model.log_prob(x) if isinstance(model, Glow) else model.elbo(x, eps)


@pytest.mark.parametrize("negative_slope", [0.0, 0.1])
@pytest.mark.parametrize(("dims", "steps", "posterior_steps"), SIZES)
def test_bound_and_gradient_are_the_librarys(
    dims: int, steps: int, posterior_steps: int, negative_slope: float
) -> None:
    models = make(dims, steps, posterior_steps, negative_slope)
    stack = Stack(models)
    x, eps = inputs(stack)
    elbo = stack.elbo(x, eps)
    stack.gradient.fill_(torch.nan)
    stack.backward(x, eps)
    for index, model in enumerate(models):
        expected = bound(model, x[index], None if eps is None else eps[index])
        torch.testing.assert_close(elbo[index], expected, atol=1e-10, rtol=1e-10)
        (-expected.mean()).backward()
        gradient = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
        torch.testing.assert_close(stack.gradient[index], gradient, atol=1e-10, rtol=1e-8)


@pytest.mark.parametrize(("steps", "posterior_steps"), [(2, 1), (1, 2)])
def test_gradient_of_the_importance_weighted_bound(steps: int, posterior_steps: int) -> None:
    models = make(5, steps, posterior_steps)
    stack = Stack(models)
    x, _ = inputs(stack)
    x, eps = x.repeat(1, 4, 1), torch.randn(3, 24, 3, dtype=torch.float64)
    stack.backward(x, eps, draws=4)
    for index, model in enumerate(models):
        terms = bound(model, x[index], eps[index]).view(4, 6)
        assert terms.std(0).min() > 0.1, "the weights differ"
        (-torch.logsumexp(terms, 0).mean()).backward()
        gradient = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
        torch.testing.assert_close(stack.gradient[index], gradient, atol=1e-10, rtol=1e-8)


def test_models_come_back_as_they_were() -> None:
    models = make(5, 2, 1)
    stack = Stack(models)
    x, eps = inputs(stack)
    for index, model in enumerate(stack.models()):
        assert torch.equal(
            bound(model, x[index], eps[index]), bound(models[index], x[index], eps[index])
        )
    stack.parameters.zero_()
    assert all(parameter.any() for parameter in models[0].parameters() if parameter.ndim == 2)


def test_importance_sampling_is_the_librarys() -> None:
    models = make(4, 2, 1)
    stack = Stack(models[:1])
    x, _ = inputs(stack)
    ours = stack.log_prob(x, 9, torch.Generator().manual_seed(3), rows=18)
    theirs = models[0].log_prob(x[0], 9, chunk=2, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(ours[0], theirs)


def test_paths_end_at_the_data() -> None:
    models = make(5, 3, 1)
    stack = Stack(models)
    latent = torch.randn(3, 6, 5, dtype=torch.float64)
    paths = stack.paths(latent)
    assert len(paths) == 4
    for index, model in enumerate(models):
        torch.testing.assert_close(paths[-1][index], torch.cat(model.decode(latent[index]), 1))
