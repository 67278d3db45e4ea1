"""A model with wider networks gives what it gave, and its channels' copies learn to differ."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.kinds import MODELS, bound, data_of
from vflow.models import ImageFlow, load_model
from vflow.models.classes import make_model
from vflow.nets.trunk import Trunk

IMAGES = [name for name, config in MODELS.items() if config.is_image]


def make(name: str) -> Any:
    torch.manual_seed(0)
    model = make_model(MODELS[name]).double()
    model.initialize(data_of(model))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return model.eval()


def widths(model: ImageFlow) -> list[int]:
    return [part.conv_in.weight.shape[0] for part in model.modules() if isinstance(part, Trunk)]


@pytest.mark.parametrize("copies", [1, 2, 3])
@pytest.mark.parametrize("name", IMAGES)
def test_the_bound_is_the_same(name: str, copies: int) -> None:
    model = make(name)
    if not widths(model):
        with pytest.raises(ValueError, match="networks, got a"):
            model.widen_networks(copies)
        return
    wide = model.widen_networks(copies)
    assert type(wide) is type(model)
    assert wide.initialized
    assert not wide.training
    assert widths(wide) == [copies * width for width in widths(model)]
    torch.testing.assert_close(bound(wide), bound(model), rtol=1e-10, atol=1e-9)


def test_copies_learn_to_differ() -> None:
    model = make("flowpp").widen_networks(2).train()
    trunk = next(part for part in model.modules() if isinstance(part, Trunk))
    weight = trunk.conv_in.weight
    first, second = weight.chunk(2)
    assert torch.equal(first, second)
    bound(model).mean().backward()
    assert weight.grad is not None
    one, other = weight.grad.chunk(2)
    assert (one - other).norm() > 0.05 * one.norm()


def test_a_seed_decides_how_weights_are_shared_out(tmp_path: Any) -> None:
    model = make("flowpp")
    one, same, another = (model.widen_networks(2, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(bound(one), bound(same))
    weights = [next(p for p in m.modules() if isinstance(p, Trunk)) for m in (one, another)]
    assert not torch.equal(weights[0].conv_out.weight, weights[1].conv_out.weight)
    one.save_pretrained(tmp_path)
    assert torch.equal(bound(load_model(tmp_path)), bound(one))


@pytest.mark.parametrize("copies", [0, -1, 1.5, True])
def test_copies_are_a_number(copies: Any) -> None:
    with pytest.raises(ValueError, match="copies must be"):
        make("flowpp").widen_networks(copies)
