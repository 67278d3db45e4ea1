"""Glow on vectors, unconditional and as a q(z|x)."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vflow.models import Glow, GlowConfig


def make(dims: int, context_dims: int = 0) -> Glow:
    torch.manual_seed(0)
    model = Glow(GlowConfig(dims=dims, steps=3, hidden=8, context_dims=context_dims)).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def context_of(model: Glow, rows: int) -> Tensor | None:
    dims = model.config.context_dims
    return torch.randn(rows, dims, dtype=torch.float64) if dims else None


@pytest.mark.parametrize(("dims", "context_dims"), [(2, 0), (5, 0), (1, 2), (3, 4)])
def test_density_round_trip_and_jacobian(dims: int, context_dims: int) -> None:
    model = make(dims, context_dims)
    x = torch.randn(3, dims, dtype=torch.float64)
    context = context_of(model, 3)
    eps, logdet = model.encode(x, context)
    back, inverse_logdet = model.decode(eps, context)
    torch.testing.assert_close(back, x)
    torch.testing.assert_close(inverse_logdet, -logdet)
    jacobian = torch.autograd.functional.jacobian(lambda t: model.encode(t, context)[0], x)
    blocks = torch.stack([jacobian[i, :, i] for i in range(3)])
    torch.testing.assert_close(torch.linalg.slogdet(blocks).logabsdet, logdet)
    normal = torch.distributions.Normal(0, 1).log_prob(eps).sum(1)
    torch.testing.assert_close(model.log_prob(x, context), normal + logdet)


def test_density_integrates_to_one() -> None:
    model = make(2)
    axis = torch.linspace(-60, 60, 1200, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    with torch.no_grad():
        mass = model.log_prob(grid).exp().sum() * (axis[1] - axis[0]) ** 2
    assert abs(mass.item() - 1) < 0.01


def test_a_conditional_sample_comes_with_its_density() -> None:
    model = make(2, context_dims=3)
    context = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    sample, log_q = model.rsample(context)
    torch.testing.assert_close(model.log_prob(sample, context), log_q)
    assert not torch.allclose(model.log_prob(sample, context + 1), log_q)
    (gradient,) = torch.autograd.grad(sample.sum() + log_q.sum(), context)
    assert gradient.any()


def test_initialisation_and_seeded_samples() -> None:
    model = Glow(GlowConfig(dims=3)).double()
    x = 5 + 2 * torch.randn(64, 3, dtype=torch.float64)
    model.initialize(x)
    first = model.flow.flows[0]
    normed = x * first.scale + first.bias
    torch.testing.assert_close(normed.mean(0), torch.zeros(3).double(), atol=1e-9, rtol=0)
    torch.testing.assert_close(normed.std(0, correction=0), torch.ones(3).double())
    a = model.sample(5, generator=torch.Generator().manual_seed(1))
    b = model.sample(5, generator=torch.Generator().manual_seed(1))
    assert a.shape == (5, 3)
    assert torch.equal(a, b)


def test_saved_and_loaded(tmp_path) -> None:
    model = make(2, context_dims=1)
    model.save_pretrained(tmp_path / "glow")
    loaded = Glow.from_pretrained(tmp_path / "glow")
    x, context = torch.randn(3, 2).double(), torch.randn(3, 1).double()
    assert torch.equal(loaded.log_prob(x, context), model.log_prob(x, context))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: GlowConfig(dims=1), "dims must be at least 2 without a context, got 1"),
        (lambda: GlowConfig(steps=0), "steps must be an integer of at least 1, got 0"),
        (lambda: GlowConfig(context_dims=-1), "context_dims must be an integer of at least 0"),
        (lambda: make(2).log_prob(torch.zeros(3, 2)), "x must be a tensor of the model's"),
        (lambda: make(2).log_prob(torch.zeros(3, 4).double()), "x must have shape [B, 2]"),
        (
            lambda: make(2).log_prob(torch.zeros(3, 2).double(), torch.zeros(3, 1).double()),
            "context must be None, got Tensor",
        ),
        (
            lambda: make(2, 1).log_prob(torch.zeros(3, 2).double()),
            "context must be [B, 1], got NoneType",
        ),
        (lambda: make(2).sample(0), "n must be an integer of at least 1, got 0"),
        (lambda: make(2).rsample(), "eps must be given where there is no context"),
        (lambda: make(2).initialize(torch.zeros(1, 2).double()), "x must have at least 2 rows"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_input(call, message: str) -> None:
    with pytest.raises(ValueError, match="must") as error:
        call()
    assert message in str(error.value)
