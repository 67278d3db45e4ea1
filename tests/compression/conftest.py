"""Tiny models of 8x8 images, whose couplings have seen some data."""

from __future__ import annotations

import pytest
import torch

import vflow


def smooth_images(count: int, channels: int = 3, size: int = 8) -> torch.Tensor:
    """Images that a flow likes better than noise, uint8 [N, C, S, S]."""
    generator = torch.Generator().manual_seed(count)
    slopes = torch.randn(count, channels, 2, 1, 1, generator=generator) * 6
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    plane = 128 + slopes[:, :, 0] * (y - 4) + slopes[:, :, 1] * (x - 4)
    noise = 3 * torch.randn(plane.shape, generator=generator)
    return (plane + noise).clamp(0, 255).to(torch.uint8)


def make_model(name: str, seed: int = 0, **overrides) -> vflow.models.ImageFlow:
    """An initialised model of 8x8 images."""
    torch.manual_seed(seed)
    model = vflow.create_model(
        name, **{"filters": 4, "components": 2, "image_size": 8, **overrides}
    )
    model.initialize(smooth_images(16, model.data_shape[0]))
    return model.eval()


@pytest.fixture(scope="session")
def model():
    torch.set_num_threads(1)
    return make_model("vflow-tiny")


@pytest.fixture(scope="session")
def folder(model, tmp_path_factory):
    """The model, saved."""
    path = tmp_path_factory.mktemp("compression") / "model"
    model.save_pretrained(path)
    return path
