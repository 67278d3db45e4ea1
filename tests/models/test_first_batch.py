"""A first batch that does not vary: later images still cost what they do at an ordinary start."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import vflow
from vflow.flows import ActNormConv1x1
from vflow.models import Glow, GlowConfig, VectorVFlow, VectorVFlowConfig
from vflow.models.initialization import data_dependent_init
from vflow.nets import Conv3x3, Pointwise


def photos(seed: int = 0, n: int = 8) -> Tensor:
    source = torch.Generator().manual_seed(seed)
    coarse = torch.randn(n, 3, 4, 4, generator=source)
    smooth = torch.nn.functional.interpolate(coarse, (16, 16), mode="bilinear")
    fine = 5 * torch.randn(n, 3, 16, 16, generator=source)
    return (128 + 40 * smooth + fine).clamp(0, 255).to(torch.uint8)


def colour(value: int) -> Callable[[], Tensor]:
    return lambda: torch.full((8, 3, 16, 16), value, dtype=torch.uint8)


def channel() -> Tensor:
    images = photos()
    images[:, 1] = 77
    return images


def element() -> Tensor:
    images = photos()
    images[:, 2, 5, 6] = 200
    return images


def nearly() -> Tensor:
    """A grey level up and down at most, as a camera's noise."""
    return (128 + torch.randint(0, 2, (8, 3, 16, 16))).to(torch.uint8)


def border() -> Tensor:
    images = photos()
    images[..., :4] = images[..., -4:] = 0
    return images


BATCHES: dict[str, tuple[Callable[[], Tensor], str | None]] = {
    "black": (colour(0), "are all alike"),
    "grey": (colour(128), "are all alike"),
    "white": (colour(255), "are all alike"),
    "nearly grey": (nearly, "are all alike"),
    "one photograph": (lambda: photos(n=1).repeat(8, 1, 1, 1), "are all alike"),
    "a channel": (channel, "do not vary in channel 1:"),
    "an element": (element, None),
    "a border": (border, None),
}


def bits(model: vflow.models.ImageFlow) -> float:
    source = torch.Generator().manual_seed(0)
    return model.bits_per_dim(photos(1, 32), generator=source).mean().item()


@pytest.mark.parametrize("preset", ["vflow-tiny", "flowpp-tiny"])
@pytest.mark.parametrize("case", BATCHES)
def test_ordinary_images_afterwards(case: str, preset: str) -> None:
    make, warning = BATCHES[case]
    model, ordinary = vflow.create_model(preset), vflow.create_model(preset)
    ordinary.initialize(photos())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.train().elbo(make())
    said = [str(entry.message) for entry in caught]
    assert [warning in text for text in said] == [True] if warning else not said
    assert bits(model) < 1.5 * bits(ordinary) + 1


def test_images_that_vary_are_taken_as_they_are(monkeypatch) -> None:
    models = [vflow.create_model("vflow-tiny") for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    noise = models[0].draw_noise(8)
    models[0].initialize(photos(), **noise)
    monkeypatch.setattr("vflow.models.image_flow.initialized.with_spread", lambda images: images)
    models[1].initialize(photos(), **noise)
    for ours, theirs in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("constant", [0.0, 3.0, -1e5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_vectors(constant: float, dtype: torch.dtype) -> None:
    first, later = torch.randn(64, 3, dtype=dtype), torch.randn(64, 3, dtype=dtype)
    first[:, 1] = constant
    later[:, 1] += constant
    for model in (
        Glow(GlowConfig(dims=3, hidden=8)),
        VectorVFlow(VectorVFlowConfig(dims=3, extra_dims=1, hidden=8)),
    ):
        model.to(dtype)
        with pytest.warns(UserWarning, match="x to initialise from does not vary in element 1:"):
            model.initialize(first)
        assert -model.log_prob(later).mean() < 8
    tiny = Glow(GlowConfig(dims=3, hidden=8)).to(dtype)
    tiny.initialize(torch.randn(64, 3, dtype=dtype) * 1e-3)  # small units are no lack of spread
    assert tiny.flow.flows[0].scale.min() > 500


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (ActNormConv1x1((4,)), (8, 4)),
        (ActNormConv1x1((2, 2, 4)), (8, 2, 2, 4)),
        (Pointwise(4, 6), (8, 2, 2, 4)),
        (Conv3x3(4, 6), (8, 1, 1, 4)),
    ],
    ids=["vector", "image", "Pointwise", "Conv3x3"],
)
def test_layers(layer: torch.nn.Module, shape: tuple[int, ...]) -> None:
    constant = torch.full(shape, 0.7)
    data_dependent_init(layer, lambda: layer(constant))
    assert all(parameter.abs().max() < 10 for parameter in layer.parameters())
