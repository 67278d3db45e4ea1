"""Theorem 1 for images: a widened flow's bound is the flow's own, and it trains on."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import vflow

PRESETS: dict[str, dict[str, Any]] = {
    "flowpp-tiny": {"image_size": 8},
    "glow-tiny": {"image_size": 8},
    "residual-tiny": {"image_size": 8, "width": 4},
    "flowpp-imagenet32": {
        **{"image_size": 8, "filters": 4, "blocks": 1, "components": 2},
        **{f"dequantizer_{part}": 1 for part in ("blocks", "steps", "context_blocks")},
        "scales": ((("checkerboard", 2),), (("channel", 2), ("checkerboard", 1))),
    },
}
"""Image flows that can be widened, small."""


def images_of(shape: tuple[int, ...], n: int = 6) -> Tensor:
    source = torch.Generator().manual_seed(0)
    coarse = torch.randn(n, shape[0], 2, 2, generator=source)
    smooth = torch.nn.functional.interpolate(coarse, shape[1:], mode="bilinear")
    noise = torch.randn(n, *shape, generator=source)
    return (128 + 40 * smooth + 5 * noise).clamp(0, 255).to(torch.uint8)


def make(name: str, **changes: Any) -> Any:
    torch.manual_seed(0)
    model = vflow.create_model(name, **{**PRESETS[name], **changes}).double()
    model.initialize(images_of(model.data_shape))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return model.eval()


@pytest.mark.parametrize("posterior", ["normal", "gaussian"])
@pytest.mark.parametrize("extra_dims", [1, 3])
@pytest.mark.parametrize("name", PRESETS)
def test_the_bound_is_the_flows(name: str, extra_dims: int, posterior: str) -> None:
    flow = make(name)
    wide = flow.widen(extra_dims, posterior)
    assert isinstance(wide, vflow.VFlow)
    assert wide.initialized
    assert not wide.training
    images = images_of(flow.data_shape)
    eps_u = flow.draw_noise(6, torch.Generator().manual_seed(1))["eps_u"]
    expected = flow.elbo(images, eps_u)
    for scale in (1, 10):  # for every noise, the far tails too
        eps_z = scale * torch.randn(6, extra_dims, *flow.data_shape[1:]).double()
        torch.testing.assert_close(wide.elbo(images, eps_u, eps_z), expected, rtol=1e-10, atol=0)
    assert wide.config.flow == flow.config.flow
    assert flow.config.augment is None


@pytest.mark.parametrize("posterior", ["normal", "gaussian"])
@pytest.mark.parametrize("name", PRESETS)
def test_it_trains_on_without_a_jump(name: str, posterior: str, tmp_path) -> None:
    flow = make(name)
    wide = flow.widen(1, posterior).train()
    images = images_of(flow.data_shape)
    start = -flow.elbo(images, generator=torch.Generator().manual_seed(1)).mean().item()
    before = [parameter.clone() for parameter in wide.parameters()]
    optimizer = torch.optim.Adam(wide.parameters(), lr=1e-4)
    losses = []
    for _ in range(12):
        noise = wide.draw_noise(6, torch.Generator().manual_seed(1))
        loss = -wide.elbo(images, **noise).mean()
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[0] == pytest.approx(start, rel=1e-10)
    assert losses[-1] < losses[0]
    moved = [bool((a != b).any()) for a, b in zip(wide.parameters(), before, strict=True)]
    assert sum(moved) > 0.9 * len(moved)
    wide.eval().save_pretrained(tmp_path)
    noise = wide.draw_noise(6)
    assert torch.equal(vflow.load_model(tmp_path).elbo(images, **noise), wide.elbo(images, **noise))


def test_it_shares_nothing_with_the_flow() -> None:
    flow = make("flowpp-tiny")
    wide = flow.widen(1)
    images, noise = images_of(flow.data_shape), wide.draw_noise(6)
    expected = wide.elbo(images, **noise)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.zero_()
    assert torch.equal(wide.elbo(images, **noise), expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"squash": True}, "layer 2: MixLogisticCoupling with the squash"),
        (
            {"scales": [[["channel", 1], ["checkerboard", 1]]]},
            "layer 0: ChannelSplit parts 4 channels after the first 2, which does not part the "
            "flow's own, at [0, 1, 2], after the first 1",
        ),
    ],
)
def test_a_layer_that_cannot_leave_z_alone_says_why(changes: dict[str, Any], message: str) -> None:
    flow = vflow.create_model("flowpp-tiny", **changes)
    with pytest.raises(ValueError, match="must have layers that can leave z alone") as error:
        flow.widen(1)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_arguments_are_checked() -> None:
    flow = vflow.create_model("flowpp-tiny")
    with pytest.raises(ValueError, match="extra_dims must be an integer of at least 1, got 0"):
        flow.widen(0)
    with pytest.raises(ValueError, match=r"posterior must start as N\(0, I\), .* got 'flow'"):
        flow.widen(1, "flow")
    with pytest.raises(ValueError, match="did you mean gaussian"):
        flow.widen(1, "gausian")
