"""The densities of the plane: seeded, of the extent and the entropy that they tell."""

from __future__ import annotations

import math

import pytest
import torch

from vflow.toy import DENSITIES


def source(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("name", DENSITIES)
def test_samples_are_seeded_and_in_their_square(name: str) -> None:
    density = DENSITIES[name]
    points = density.sample(5000, source())
    assert points.shape == (5000, 2)
    assert points.dtype == torch.float32
    assert torch.equal(points, density.sample(5000, source()))
    assert not torch.equal(points, density.sample(5000, source(1)))
    assert (points.abs() > density.extent).any(1).float().mean() < 0.001
    assert (points.mean(0).abs() < 0.1).all()
    assert (points.std(0) > 0.9).all()


def test_checkerboard_fills_every_second_square() -> None:
    points = DENSITIES["checkerboard"].sample(20_000, source())
    assert points.abs().max() <= 4
    column, row = ((points + 4) / 2).floor().clamp(0, 3).long().unbind(1)
    assert ((column + row) % 2 == 0).all()
    counts = torch.bincount(4 * column + row)
    assert (counts[counts > 0] - 2500).abs().max() < 250
    assert (counts > 0).sum() == 8
    # Uniform on 8 squares of area 4.
    assert DENSITIES["checkerboard"].entropy == pytest.approx(math.log(32))


def test_entropy_of_the_gaussians() -> None:
    density = DENSITIES["eight-gaussians"]
    points = density.sample(20_000, source()).double()
    angles = math.pi / 4 * torch.arange(8)
    centres = 3 * torch.stack([angles.cos(), angles.sin()], 1).double()
    squares = (points.unsqueeze(1) - centres).square().sum(-1)
    log_prob = (-squares / (2 * 0.04)).logsumexp(1) - math.log(8 * 2 * math.pi * 0.04)
    assert density.entropy == pytest.approx(-log_prob.mean().item(), abs=0.02)
