"""r(u|x): from whole pixel values to continuous ones (VFlow, Chen et al., 2020, Eq. 7)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vflow.flows.elementwise import PIXEL_VALUES
from vflow.models.steps import ConditionalFlow, StepConfig, draw
from vflow.nets import ContextNetwork


class VariationalDequantizer(nn.Module):
    """u from a conditional flow.

    Args:
        shape: Shape [H, W, C] of an image.
        config: The flow's couplings.
    """

    def __init__(self, shape: tuple[int, int, int], config: StepConfig) -> None:
        super().__init__()
        self.context = ContextNetwork(shape[-1])
        self.conditional = ConditionalFlow(shape, config)

    def draw(
        self, shape: tuple[int, ...], like: Tensor, generator: torch.Generator | None
    ) -> Tensor:
        """Noise for `forward`: N(0, 1)."""
        return draw(shape, like, generator)

    def forward(self, images: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
        """images [B, H, W, C] in 0..255, noise eps alike -> u in (0, 1), log r(u|x) [B] in nats."""
        return self.conditional(eps, self.context(images / PIXEL_VALUES - 0.5))


class UniformDequantizer(nn.Module):
    """u uniform in [0, 1), so log r(u|x) = 0."""

    def draw(
        self, shape: tuple[int, ...], like: Tensor, generator: torch.Generator | None
    ) -> Tensor:
        """Noise for `forward`: uniform in [0, 1)."""
        device = generator.device if generator is not None else like.device
        noise = torch.rand(shape, generator=generator, device=device, dtype=like.dtype)
        return noise.to(like.device)

    def forward(self, images: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
        """images [B, H, W, C], eps alike in [0, 1) -> u = eps, log r(u|x) = 0 [B]."""
        return eps, eps.new_zeros(eps.shape[0])
