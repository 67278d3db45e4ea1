"""Theorem 1: a flow embedded in a VFlow keeps its likelihood, and can be trained on."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import vflow
from vflow.models import Glow, GlowConfig, ResidualFlow, ResidualFlowConfig

STEPS = 2


def make(kind: str, dims: int) -> Glow | ResidualFlow:
    torch.manual_seed(0)
    model: Glow | ResidualFlow
    if kind == "glow":
        model = Glow(GlowConfig(dims=dims, steps=STEPS, hidden=8)).double()
    else:
        model = ResidualFlow(ResidualFlowConfig(dims=dims, steps=STEPS, hidden=8)).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def points(dims: int, rows: int = 50) -> Tensor:
    return 3 * torch.randn(rows, dims, dtype=torch.float64)


@pytest.mark.parametrize("posterior_steps", [0, 1])
@pytest.mark.parametrize("extra_dims", [1, 2, 5])
@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("kind", ["glow", "residual"])
def test_elbo_is_the_flows_log_likelihood(
    kind: str, dims: int, extra_dims: int, posterior_steps: int
) -> None:
    flow = make(kind, dims)
    wide = vflow.VFlow.from_flow(flow, extra_dims, posterior_steps)
    x = points(dims)
    truth = flow.log_prob(x)
    for scale in (1, 30):  # for every noise, the far tails too
        noise = scale * torch.randn(50, extra_dims, dtype=torch.float64)
        torch.testing.assert_close(wide.elbo(x, noise), truth, atol=1e-10, rtol=1e-12)
    torch.testing.assert_close(wide.log_prob(x, samples=7, chunk=20), truth, atol=1e-10, rtol=1e-12)
    assert wide.config.total_dims == dims + extra_dims


@pytest.mark.parametrize("dims", [15, 17, 40])
def test_the_promise_holds_in_many_dimensions(dims: int) -> None:
    flow = make("residual", dims)
    wide = vflow.VFlow.from_flow(flow, 2)
    x = points(dims, 8)
    truth = flow.log_prob(x)
    torch.testing.assert_close(wide.elbo(x), truth, atol=1e-10, rtol=1e-12)
    torch.testing.assert_close(wide.log_prob(x, samples=64), truth, atol=1e-10, rtol=1e-12)
    rough = wide.estimate_elbo(x, generator=torch.Generator().manual_seed(0))
    again = wide.estimate_elbo(x, generator=torch.Generator().manual_seed(0))
    assert torch.equal(rough, again)
    assert not torch.allclose(rough, truth, atol=1e-6)


@pytest.mark.parametrize("kind", ["glow", "residual"])
def test_training_goes_on_without_a_jump(kind: str) -> None:
    flow = make(kind, 2)
    wide = vflow.VFlow.from_flow(flow, 2, posterior_steps=1)
    x = points(2, 256)
    generator = torch.Generator().manual_seed(0)
    before = [parameter.clone() for parameter in wide.parameters()]
    optimizer = torch.optim.Adam(wide.parameters(), lr=1e-3)
    losses = []
    for _ in range(30):
        loss = -wide.elbo(x, generator=generator).mean()
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    start = -flow.log_prob(x).mean().item()
    assert abs(losses[0] - start) < 1e-10
    assert max(losses) < start + 0.05
    assert losses[-1] < start - 0.1
    assert all((now != then).any() for now, then in zip(wide.parameters(), before, strict=True)), (
        "every parameter learns, z's among them"
    )


def test_the_embedding_shares_no_memory_and_can_be_saved(tmp_path) -> None:
    flow = make("residual", 2)
    wide = vflow.VFlow.from_flow(flow, 3)
    x, noise = points(2), torch.randn(50, 3, dtype=torch.float64)
    expected = wide.elbo(x, noise)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.zero_()
    assert torch.equal(wide.elbo(x, noise), expected)
    wide.save_pretrained(tmp_path / "wide")
    assert torch.equal(vflow.load_model(tmp_path / "wide").elbo(x, noise), expected)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: vflow.VFlow.from_flow(make("glow", 2), 0), "extra_dims must be an integer of"),
        (
            lambda: vflow.VFlow.from_flow(make("glow", 2), 1, -1),
            "posterior_steps must be an integer of at least 0, got -1",
        ),
        (
            lambda: vflow.VFlow.from_flow(Glow(GlowConfig(dims=2, context_dims=1)), 1),
            "flow must be unconditional, got context_dims 1",
        ),
        (
            lambda: vflow.VFlow.from_flow(vflow.create_model("vflow-tiny"), 1),
            "flow must be a model without extra dimensions, got a VFlow",
        ),
        (
            lambda: vflow.VFlow.from_flow(vflow.create_model("flowpp-tiny", squash=True), 1),
            "layer 2: MixLogisticCoupling with the squash of the CDF to [0.05, 0.95] is the",
        ),
        (
            lambda: vflow.VFlow.from_flow(vflow.create_model("flowpp-tiny"), 1, 1),
            "posterior_steps must be 0 for images, got 1",
        ),
        (lambda: vflow.VFlow.from_flow(torch.nn.Linear(2, 2), 1), "got Linear"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_input(call, message: str) -> None:
    with pytest.raises(ValueError, match="must") as error:
        call()
    assert message in str(error.value)
