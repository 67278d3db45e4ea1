"""Gradients where they are asked for, and nowhere else: decoding, sampling, likelihoods."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

import vflow
from vflow.flows.couplings import AffineSpec
from vflow.models import ImageFlow
from vflow.nets import Trunk
from vflow.nets.recompute import RECOMPUTE
from vflow.ops import actnorm_conv1x1_inverse, mixlogistic_inverse

KINDS: dict[str, dict[str, Any]] = {
    "vflow-tiny": {"image_size": 4, "in_channels": 1, "filters": 4, "components": 2},
    "flowpp-tiny": {"image_size": 4, "in_channels": 1, "filters": 4, "components": 2},
}


@pytest.fixture(params=KINDS)
def model(request: pytest.FixtureRequest) -> ImageFlow:
    model = vflow.create_model(request.param, **KINDS[request.param]).double()
    model.initialize(_images(16))
    return model


def _images(count: int) -> torch.Tensor:
    source = torch.Generator().manual_seed(3)
    return torch.randint(0, 256, (count, 1, 4, 4), generator=source, dtype=torch.uint8)


_IMAGES = _images(2)


def _seed() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("squash", [True, False])
def test_the_inverse_by_the_implicit_function_theorem(squash: bool):
    source = torch.Generator().manual_seed(0)
    y = 0.5 * torch.randn(2, 3, 1, 2, generator=source, dtype=torch.float64)
    params = 0.5 * torch.randn(2, 3, 1, 2, 8, generator=source, dtype=torch.float64)
    inputs = (y.requires_grad_(), params.requires_grad_())
    assert torch.autograd.gradcheck(lambda y, p: mixlogistic_inverse(y, p, squash), inputs)


def test_what_the_squash_clips_follows_the_mixture_alone():
    source = torch.Generator().manual_seed(0)
    params = torch.randn(1, 1, 1, 2, 8, generator=source, dtype=torch.float64).requires_grad_()
    y = torch.tensor([[[[0.0, 9.0]]]], dtype=torch.float64, requires_grad=True)
    function = lambda y, p: mixlogistic_inverse(y, p)[0]  # noqa: E731
    function(y, params).sum().backward()
    assert y.grad is not None
    assert params.grad is not None
    assert y.grad[..., 0] != 0
    assert y.grad[..., 1] == 0
    assert (params.grad[..., 1, :2] == 0).all()
    # The mixture moved as a whole moves its quantiles with it. (A quantile so far out is not
    # resolved finely enough for finite differences.)
    assert params.grad[..., 1, 4:6].sum().item() == pytest.approx(1, abs=1e-6)


def test_a_second_derivative_of_the_inverse_is_refused():
    params = torch.zeros(1, 1, 1, 1, 8, dtype=torch.float64, requires_grad=True)
    x, _ = mixlogistic_inverse(torch.zeros(1, 1, 1, 1, dtype=torch.float64), params)
    (first,) = torch.autograd.grad(x.square().sum(), params, create_graph=True)
    with pytest.raises(RuntimeError, match=r"once_differentiable|does not require grad"):
        first.sum().backward()


def test_the_inverse_of_the_linear_layer():
    source = torch.Generator().manual_seed(0)
    y, scale, bias, weight = (
        torch.randn(shape, generator=source, dtype=torch.float64).requires_grad_()
        for shape in ((3, 2, 2), (2, 2), (2, 2), (2, 2))
    )
    inputs = (y, scale.detach().abs().add(0.5).requires_grad_(), bias, weight)
    assert torch.autograd.gradcheck(actnorm_conv1x1_inverse, inputs)


def test_torch_func_is_told_that_the_inverses_gradient_is_implicit(model: ImageFlow):
    latent = model.encode(_images(1))
    with vflow.ops.use_backend("reference"), pytest.raises(ValueError, match=r"by torch\.autograd"):
        torch.func.grad(lambda part: model.decode(part, differentiable=True).sum())(latent)


def test_an_image_follows_its_latent(model: ImageFlow):
    latent = model.encode(_images(1), generator=_seed()).contiguous()
    function = lambda part: model.decode(part, differentiable=True)  # noqa: E731
    assert torch.autograd.gradcheck(function, (latent.requires_grad_(),), atol=1e-4, rtol=1e-4)
    assert not model.decode(latent).requires_grad
    with torch.no_grad():
        assert not model.decode(latent, differentiable=True).requires_grad


def test_samples_follow_the_parameters(model: ImageFlow):
    images = model.sample(3, generator=_seed(), differentiable=True)
    assert images.dtype == torch.float64
    assert torch.equal(
        images.floor().clamp_max(255).to(torch.uint8), model.sample(3, generator=_seed())
    )
    parameter = next(p for name, p in model.flow.named_parameters() if name.endswith("scale"))
    (gradient,) = torch.autograd.grad(images.mean(), parameter)
    direction, step = torch.randn_like(parameter), 1e-6
    ends = []
    for sign in (1, -1):
        with torch.no_grad():
            parameter.add_(sign * step * direction)
            ends.append(model.sample(3, generator=_seed(), differentiable=True).mean().item())
            parameter.sub_(sign * step * direction)
    slope = (ends[0] - ends[1]) / (2 * step)
    assert slope == pytest.approx((gradient * direction).sum().item(), rel=1e-4, abs=1e-7)


def test_chunks_change_no_sample(model: ImageFlow):
    whole = model.sample(7, 0.8, _seed())
    for chunk in (1, 3, 7, 100):
        assert torch.equal(model.sample(7, 0.8, _seed(), chunk=chunk), whole)
    with pytest.raises(ValueError, match="chunk must be an integer of at least 1, got 0"):
        model.sample(7, chunk=0)


def test_temperature_zero_is_the_mode(model: ImageFlow):
    images = model.sample(3, temperature=0)
    assert torch.equal(images, images[:1].expand(3, -1, -1, -1))
    shape = model.latent_shapes
    zero = model.decode(torch.zeros(1, *shape, dtype=torch.float64))
    assert torch.equal(images[:1], zero.floor().clamp(0, 255).to(torch.uint8))
    for wrong in (-1, math.nan, math.inf, "hot", True):
        with pytest.raises(ValueError, match="temperature must be a number of at least 0"):
            model.sample(1, temperature=wrong)


def test_a_likelihood_by_importance_sampling_can_be_climbed(model: ImageFlow):
    images = _images(3)
    plain = model.log_prob(images, 4, generator=_seed())
    assert not plain.requires_grad
    steep = model.log_prob(images, 4, generator=_seed(), differentiable=True)
    torch.testing.assert_close(steep, plain)
    bits = model.bits_per_dim(images, 4, generator=_seed(), differentiable=True)
    bits.mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


class TestLogDensity:
    def test_is_the_bound_less_the_dequantizers(self, model: ImageFlow):
        images, noise = _images(4), model.draw_noise(4, _seed())
        pixels = images.permute(0, 2, 3, 1).double()
        u, log_r = model.dequantizer(pixels, noise["eps_u"].permute(0, 2, 3, 1))
        values = (pixels + u).permute(0, 3, 1, 2).detach()
        if "eps_z" in noise:
            drawn = model.density.density.draw_noise(4, _seed())["eps_z"]
            noise["eps_z"] = drawn.permute(0, 3, 1, 2)
        with torch.no_grad():
            want = model.eval().elbo(images, **noise) + log_r
        torch.testing.assert_close(model.log_density(values, generator=_seed()), want)

    def test_follows_the_values(self, model: ImageFlow):
        values = (_images(1).double() + 0.5).requires_grad_()
        function = lambda v: model.log_density(v, generator=_seed(), differentiable=True)  # noqa: E731
        assert torch.autograd.gradcheck(function, (values,), atol=1e-5)
        assert not model.log_density(values).requires_grad

    @pytest.mark.parametrize(("bad", "came"), [(256.0, "256"), (-0.5, "-0.5"), (math.nan, "nan")])
    def test_values_out_of_range_are_named(self, model: ImageFlow, bad: float, came: str):
        values = torch.full((1, 1, 4, 4), bad, dtype=torch.float64)
        with pytest.raises(ValueError, match=rf"values must lie in \[0, 256\), got {came}"):
            model.log_density(values)

    def test_whole_numbers_want_elbo(self, model: ImageFlow):
        with pytest.raises(ValueError, match="values must be a tensor of the model's"):
            model.log_density(_images(2))


@pytest.mark.parametrize("differentiate", ["decode", "log_prob"])
def test_recomputing_a_model_with_dropout(differentiate: str):
    """In training mode outside: the values and their gradients are both without dropout."""
    model = vflow.create_model("vflow-tiny", **KINDS["vflow-tiny"], dropout=0.5).double()
    model.initialize(_images(16))
    model.train()
    found = []
    for recompute in RECOMPUTE:
        model.set_recompute(recompute)
        model.zero_grad()
        if differentiate == "decode":
            value = model.sample(2, generator=_seed(), differentiable=True)
        else:
            value = model.log_prob(_images(2), generator=_seed(), differentiable=True)
        value.sum().backward()
        found.append([value.detach(), *(p.grad for p in model.parameters() if p.grad is not None)])
    assert len(found[0]) == len(found[1]) == len(found[2]) > 10
    assert all(map(torch.equal, found[0], found[1]))
    assert all(map(torch.equal, found[0], found[2]))
    assert model.training


@pytest.mark.parametrize("recompute", RECOMPUTE)
def test_a_pass_draws_the_seeds_of_each_network_at_once(
    recompute: str, monkeypatch: pytest.MonkeyPatch
):
    """And looks at no generator's state, which a CUDA graph may not hold."""
    model = vflow.create_model("vflow-tiny", **KINDS["vflow-tiny"], dropout=0.5)
    model.initialize(_images(16))
    model.train()
    model.set_recompute(recompute)
    trunks = sum(isinstance(module, Trunk) for module in model.modules())
    draws = []
    monkeypatch.setattr(torch, "get_rng_state", lambda: pytest.fail("the state was read"))
    real = torch.randint

    def counted(*args: Any, **options: Any) -> torch.Tensor:
        draws.append(args)
        return real(*args, **options)

    monkeypatch.setattr(torch, "randint", counted)
    model(_IMAGES, generator=_seed()).sum().backward()
    assert len(draws) == trunks > 2


class Noisy(torch.nn.Module):
    """A network of somebody's own, whose dropout is PyTorch's."""

    def __init__(self) -> None:
        super().__init__()
        self.map = torch.nn.Linear(2, 4)

    def forward(self, x: torch.Tensor, context: torch.Tensor | None = None) -> torch.Tensor:
        return torch.nn.functional.dropout(self.map(x), 0.5, self.training)


def test_a_network_of_ones_own_draws_the_same_when_computed_again():
    torch.manual_seed(0)
    coupling = AffineSpec().build(Noisy())
    halves = torch.randn(50, 2), torch.randn(50, 2)
    found = []
    for recompute in (False, True):
        coupling.recompute = recompute
        coupling.zero_grad()
        torch.manual_seed(1)
        (_, y), logdet = coupling(halves)
        torch.rand(3)
        (y.square().sum() + logdet.sum()).backward()
        found.append([p.grad for p in coupling.parameters()])
    assert all(map(torch.equal, *found))
