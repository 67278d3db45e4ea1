"""Two-dimensional densities that show what a flow can and cannot do."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Sampler = Callable[[int, torch.Generator], Tensor]


@dataclass(frozen=True, kw_only=True)
class Density:
    """A density on the plane, known by its samples."""

    name: str
    sampler: Sampler
    extent: float
    """Half the side of the square around 0 that pictures show; all but a few samples are in it."""
    entropy: float | None = None
    """In nats, where known: minus the best log-likelihood that a model can have."""

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw n points, float32 [n, 2]; the same generator state gives the same points."""
        return self.sampler(n, generator)


def _uniform(n: int, generator: torch.Generator) -> Tensor:
    return torch.rand(n, generator=generator)


def _normal(n: int, generator: torch.Generator) -> Tensor:
    return torch.randn(n, 2, generator=generator)


def _integers(n: int, high: int, generator: torch.Generator) -> Tensor:
    return torch.randint(high, (n,), generator=generator)


def _polar(radius: Tensor, angle: Tensor) -> Tensor:
    return torch.stack([radius * torch.cos(angle), radius * torch.sin(angle)], 1)


def checkerboard(n: int, generator: torch.Generator) -> Tensor:
    """Uniform on 8 of the 16 squares of side 2 in [-4, 4]^2: the support has area 32."""
    column, pair = _integers(n, 4, generator), _integers(n, 2, generator)
    row = 2 * pair + column % 2
    corner = 2.0 * torch.stack([column, row], 1) - 4
    return corner + 2 * torch.rand(n, 2, generator=generator)


def two_spirals(n: int, generator: torch.Generator) -> Tensor:
    """Two arms of one and a half turns, with noise of standard deviation 0.1."""
    # The square root spreads the points evenly along the arm.
    angle = 3 * math.pi * torch.sqrt(_uniform(n, generator))
    arm = _integers(n, 2, generator)
    return _polar(angle / 3, angle + math.pi * arm) + 0.1 * _normal(n, generator)


def eight_gaussians(n: int, generator: torch.Generator) -> Tensor:
    """Eight Gaussians of standard deviation 0.2 on a circle of radius 3."""
    angle = math.pi / 4 * _integers(n, 8, generator)
    return _polar(torch.full((n,), 3.0), angle) + 0.2 * _normal(n, generator)


def two_moons(n: int, generator: torch.Generator) -> Tensor:
    """Two interleaved half circles of radius 2, with noise of standard deviation 0.15."""
    angle = math.pi * _uniform(n, generator)
    moon = _integers(n, 2, generator).unsqueeze(1)
    arc = _polar(torch.full((n,), 2.0), angle) - torch.tensor([1.0, 0.5])
    return (1 - 2 * moon) * arc + 0.15 * _normal(n, generator)


def rings(n: int, generator: torch.Generator) -> Tensor:
    """Three circles of radius 1, 2 and 3, equally likely, with noise of standard deviation 0.1."""
    radius = 1.0 + _integers(n, 3, generator)
    return _polar(radius, 2 * math.pi * _uniform(n, generator)) + 0.1 * _normal(n, generator)


def pinwheel(n: int, generator: torch.Generator) -> Tensor:
    """Five curved vanes."""
    vane, noise = _integers(n, 5, generator), _normal(n, generator)
    along, across = 2 + 0.6 * noise[:, 0], 0.15 * noise[:, 1]
    # The further out, the more a vane is turned.
    angle = 2 * math.pi / 5 * vane + 0.25 * torch.exp(along / 2)
    return _rotate(torch.stack([along, across], 1), angle)


def _rotate(points: Tensor, angle: Tensor) -> Tensor:
    cos, sin = torch.cos(angle), torch.sin(angle)
    x, y = points.unbind(1)
    return torch.stack([cos * x - sin * y, sin * x + cos * y], 1)


# The entropy of the Gaussians takes them for disjoint: their nearest are 11 deviations apart.
_GAUSSIANS = math.log(8) + math.log(2 * math.pi * math.e * 0.2**2)
DENSITIES = {
    density.name: density
    for density in (
        Density(name="checkerboard", sampler=checkerboard, extent=5.0, entropy=math.log(32)),
        Density(name="two-spirals", sampler=two_spirals, extent=4.0),
        Density(name="eight-gaussians", sampler=eight_gaussians, extent=4.5, entropy=_GAUSSIANS),
        Density(name="two-moons", sampler=two_moons, extent=4.0),
        Density(name="rings", sampler=rings, extent=4.0),
        Density(name="pinwheel", sampler=pinwheel, extent=4.5),
    )
}
