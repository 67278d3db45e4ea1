"""Whole models against public implementations of the same, on the same weights and noise, float64.

The numbers are theirs (`tests/data/golden/README.md` tells how they were made); `tests/peers.py`
maps their parameters onto ours.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import vflow
from tests import golden, peers, peers_flowpp, peers_residual
from vflow.flows import ImageResidualBlock
from vflow.nets import LipschitzNet


@pytest.mark.parametrize("size", ["small", "full"])
def test_glow_is_glow_pytorchs(size: str) -> None:
    arrays = golden.load("glow_peer")
    changes: dict[str, Any] = {}
    if size == "small":
        changes = {"image_size": 16, "scales": (2, 2), "width": 8}
    model = vflow.create_model("glow-cifar10", **changes).double().eval()
    peers.load_glow(model)
    side = model.data_shape[1]
    images = golden.seeded_images(2)[:, :, :side, :side].contiguous()
    u = golden.tensor(np.abs(golden.seeded("glow_u", (2, 3, side, side))) % 1)
    with torch.no_grad():
        nats = model.elbo(images, eps_u=u)
    golden.assert_close(nats, arrays[f"{size}_nats"], "nats")
    # Their top is a convolution of zeros, of which a mean and a log-sigma per channel are left.
    top = 2 * model.latent_shapes[-1][0]
    dead = 9 * top * top + top
    ours = sum(parameter.numel() for parameter in model.parameters())
    assert ours + dead == int(arrays[f"{size}_parameters"])


@pytest.mark.parametrize("name", peers_flowpp.CASES)
def test_flowpp_is_localbitsbacks(name: str) -> None:
    """`python -m tests.full_size` does it with the presets' own sizes."""
    arrays = golden.load("flowpp_peer")
    model = vflow.create_model(name, **peers_flowpp.CASES[name]).double().eval()
    used = peers_flowpp.load(model)
    images, eps_u = peers_flowpp.inputs(model)
    with torch.no_grad():
        nats = model.elbo(images, eps_u=eps_u)
    golden.assert_close(nats, arrays[f"{name}/small_nats"], "nats")
    parameters, dead = arrays[f"{name}/small_parameters"]
    assert used == parameters - dead
    with torch.device("meta"):
        full = vflow.create_model(name)
    parameters, dead = arrays[f"{name}/full_parameters"]
    assert sum(parameter.numel() for parameter in full.parameters()) == parameters - dead


def test_residual_flow_is_residual_flows() -> None:
    arrays = golden.load("residual_peer")
    model = vflow.create_model("residual-cifar10", **peers_residual.CASE).double().eval()
    used = peers_residual.load(model)
    blocks = [part for part in model.modules() if isinstance(part, ImageResidualBlock)]
    found: list[torch.Tensor] = []
    for block in blocks:
        block.register_forward_hook(lambda _, args, result: found.append(result[1]))
    images, u = peers_residual.inputs()
    with torch.no_grad():
        nats = model.elbo(images, eps_u=u)
    golden.assert_close(torch.stack(found, 1), arrays["logdets"], "log-determinants of the blocks")
    golden.assert_close(nats, arrays["nats"], "nats")
    # Theirs have two parameters a block, of the series, that no gradient reaches.
    assert used == int(arrays["parameters"]) - 2 * len(blocks)
    # Power iteration and our bounds differ where they divide: here neither does.
    nets = [part for part in model.modules() if isinstance(part, LipschitzNet)]
    for net in nets:
        for acts, layer in zip(net.weights(), net.maps, strict=True):
            assert torch.equal(acts, layer.weight)
