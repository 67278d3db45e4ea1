"""Whole models under torch.func, and twice differentiated."""

from __future__ import annotations

import pytest
import torch
from torch.func import functional_call, grad, jvp, stack_module_state, vmap

from vflow import create_model
from vflow.models.glow import Glow, GlowConfig
from vflow.models.residual_flow import ResidualFlow, ResidualFlowConfig
from vflow.models.vector_vflow import VectorVFlow, VectorVFlowConfig
from vflow.ops import use_backend

IMAGES = ("vflow-tiny", "flowpp-tiny")
VECTORS = {
    "glow": lambda: Glow(GlowConfig(dims=3, hidden=8)),
    "residual flow": lambda: ResidualFlow(ResidualFlowConfig(dims=3, hidden=8)),
    "vflow": lambda: VectorVFlow(VectorVFlowConfig(dims=2, extra_dims=2, hidden=8)),
}


def make(name):
    """A model in float64, two batches and the noise of either."""
    if name in VECTORS:
        model = VECTORS[name]().double()
        batches = [(torch.randn(3, model.config.dims, dtype=torch.float64),) for _ in range(2)]
        eps = torch.randn(3, 2, dtype=torch.float64)
        return model, batches, {"eps_z": eps} if name == "vflow" else {}
    model = create_model(name).double()
    batches = [(torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8),) for _ in range(2)]
    model.initialize(*batches[0])
    return model.eval(), batches, model.draw_noise(2)


def bound(model, noise):
    """The mean of the likelihood or its bound, as a function of parameters and a batch."""

    def function(parameters, *batch):
        return functional_call(model, parameters, batch, noise).mean()

    return function


@pytest.fixture(params=["reference", None], ids=["reference", "nothing named"])
def backend(request):
    if request.param is None:
        yield
    else:
        with use_backend(request.param):
            yield


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("name", [*IMAGES, *VECTORS])
def test_gradients_and_products_with_the_hessian(name):
    model, (batch, _), noise = make(name)
    parameters = dict(model.named_parameters())
    tangents = {key: torch.randn_like(p) for key, p in parameters.items()}
    function = bound(model, noise)

    leaves = list(parameters.values())
    value = function(parameters, *batch)
    gradients = torch.autograd.grad(value, leaves, create_graph=True)
    along = sum((g * tangents[k]).sum() for k, g in zip(parameters, gradients, strict=True))
    products = torch.autograd.grad(along, leaves)

    plain = {key: p.detach() for key, p in parameters.items()}
    close = {"rtol": 1e-7, "atol": 1e-7}  # second derivatives lose digits to cancellation
    gradient = grad(lambda p: function(p, *batch))
    found, tangent = jvp(gradient, (plain,), (tangents,))
    slope = jvp(lambda p: function(p, *batch), (plain,), (tangents,))[1]
    torch.testing.assert_close(slope, along.detach(), **close)
    for key, g, product in zip(parameters, gradients, products, strict=True):
        torch.testing.assert_close(found[key], g.detach(), **close)
        torch.testing.assert_close(tangent[key], product, **close)
    # And against the gradient a little further along the tangent.
    step = 1e-7
    ahead, behind = (
        gradient({k: p + s * tangents[k] for k, p in plain.items()}) for s in (step, -step)
    )
    scale = max(t.abs().max() for t in tangent.values())
    for key, product in tangent.items():
        difference = (ahead[key] - behind[key]) / (2 * step)
        assert (difference - product).abs().max() < 1e-5 * scale, key


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("name", [*IMAGES, *VECTORS])
def test_vmap_over_batches_and_over_models(name):
    model, batches, noise = make(name)
    other = make(name)[0]
    other.load_state_dict({k: v + 0 for k, v in model.state_dict().items()})
    with torch.no_grad():
        for p in other.parameters():
            p.mul_(1.01)
    function = bound(model, noise)
    parameters, buffers = stack_module_state([model, other])
    stacked = tuple(torch.stack(pair) for pair in zip(*batches, strict=True))

    gradient = grad(lambda p, b, *batch: function({**p, **b}, *batch))
    found = vmap(gradient)(parameters, buffers, *stacked)
    for index, (one, batch) in enumerate(zip((model, other), batches, strict=True)):
        value = one(*batch, **noise).mean()
        expected = torch.autograd.grad(value, list(one.parameters()))
        for (key, _), plain in zip(one.named_parameters(), expected, strict=True):
            torch.testing.assert_close(found[key][index], plain, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("recompute", ["none", "coupling"])
@pytest.mark.parametrize("name", IMAGES)
def test_gradients_of_each_image(name, recompute):
    model, (batch, _), noise = make(name)
    model.set_recompute(recompute)
    parameters = {key: p.detach() for key, p in model.named_parameters()}

    def of_one(p, image, eps):
        eps = {key: e.unsqueeze(0) for key, e in eps.items()}
        return functional_call(model, p, (image.unsqueeze(0),), eps).sum()

    each = vmap(grad(of_one), (None, 0, 0))(parameters, batch[0], noise)
    together = grad(lambda p: functional_call(model, p, batch, noise).sum())(parameters)
    for key, expected in together.items():
        torch.testing.assert_close(each[key].sum(0), expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", ["vflow-tiny", "glow"])
def test_a_kernel_says_who_can(name):
    model, (batch, _), noise = make(name)
    function = bound(model, noise)
    with use_backend("cpu"), pytest.raises(ValueError, match=r"use_backend\('reference'\)$"):
        grad(lambda p: function(p, *batch))(dict(model.named_parameters()))
