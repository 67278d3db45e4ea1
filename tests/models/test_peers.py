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
from tests import golden, peers


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
