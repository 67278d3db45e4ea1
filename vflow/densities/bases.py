"""What noise and latents are drawn from: a standard normal, a uniform."""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor

LOG_2PI = math.log(2 * math.pi)


def normal_log_prob(eps: Tensor) -> Tensor:
    """log N(eps; 0, I) [B] in nats."""
    return -0.5 * (eps.square() + LOG_2PI).flatten(1).sum(1)


class Base(Protocol):
    """A density without parameters on tensors of any shape."""

    def log_prob(self, eps: Tensor) -> Tensor:
        """eps [B, ...] -> [B], nats."""

    def draw(
        self, shape: tuple[int, ...], like: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """A sample of that shape, of the type and device of `like`."""


class Normal:
    """N(0, I)."""

    def log_prob(self, eps: Tensor) -> Tensor:
        """eps [B, ...] -> [B], nats."""
        return normal_log_prob(eps)

    def draw(
        self, shape: tuple[int, ...], like: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """Drawn on the generator's device."""
        device = generator.device if generator is not None else like.device
        noise = torch.randn(shape, generator=generator, device=device, dtype=like.dtype)
        return noise.to(like.device)


class Uniform:
    """Uniform in [0, 1)."""

    def log_prob(self, eps: Tensor) -> Tensor:
        """Zero."""
        return eps.new_zeros(eps.shape[0])

    def draw(
        self, shape: tuple[int, ...], like: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """Drawn on the generator's device."""
        device = generator.device if generator is not None else like.device
        noise = torch.rand(shape, generator=generator, device=device, dtype=like.dtype)
        return noise.to(like.device)
