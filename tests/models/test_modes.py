"""Nothing that evaluates for a while changes the mode of any part of the model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import vflow
from vflow.models import ImageFlow

IMAGES = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
CALLS: dict[str, Callable[[ImageFlow], Any]] = {
    "sample": lambda m: m.sample(2),
    "log_prob": lambda m: m.log_prob(IMAGES),
    "bits_per_dim": lambda m: m.bits_per_dim(IMAGES, samples=2),
    "encode": lambda m: m.encode(IMAGES),
    "decode": lambda m: m.decode(torch.zeros(2, 24, 8, 8)),
    "initialize": lambda m: m.initialize(IMAGES),
    "first batch": lambda m: m.elbo(IMAGES),
}


def modes(model: ImageFlow) -> dict[str, bool]:
    return {name: module.training for name, module in model.named_modules()}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("call", CALLS)
def test_every_part_keeps_its_mode(call: str, training: bool) -> None:
    model = vflow.create_model("vflow-tiny", dropout=0.2).train(training)
    model.posterior.train(not training)
    model.flow.flows[1].train(not training)
    before = modes(model)
    CALLS[call](model)
    assert modes(model) == before


def test_so_it_does_when_a_call_fails(monkeypatch) -> None:
    model = vflow.create_model("vflow-tiny").train()
    model.posterior.eval()
    before = modes(model)
    monkeypatch.setattr(model.density, "decode", lambda latent: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        model.sample(2)
    assert modes(model) == before


def test_dropout_is_off_meanwhile_in_every_part() -> None:
    model = vflow.create_model("vflow-tiny", dropout=0.5)
    model.initialize(IMAGES)
    model.eval()
    model.flow.train()
    latent = torch.randn(2, 24, 8, 8)
    assert torch.equal(model.decode(latent), model.decode(latent))
    assert model.flow.training
