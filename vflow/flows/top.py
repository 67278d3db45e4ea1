"""A learned Gaussian for what is left at the end of a flow."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from vflow.flows.base import Flow
from vflow.flows.embedding import Places
from vflow.ops.coder import Affine, Coder


class ChannelWhitening(Flow):
    """eps = (x - mean) exp(-log_sigma), both per channel: the learned top of Glow's prior."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(channels))
        self.log_sigma = nn.Parameter(torch.zeros(channels))

    def _logdet(self, x: Tensor) -> Tensor:
        positions = x[0, ..., 0].numel()
        return (-positions * self.log_sigma.sum()).expand(x.shape[0])

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """x [B, ..., C] -> eps alike, logdet [B]."""
        return (x - self.mean) * torch.exp(-self.log_sigma), self._logdet(x)

    def inverse(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """eps [B, ..., C] -> x alike, logdet [B]."""
        return y * torch.exp(self.log_sigma) + self.mean, -self._logdet(y)

    def code(self, x: Tensor, coder: Coder, context: Tensor | None = None) -> Tensor:
        """`forward` of whole numbers."""
        return coder.affine(x, coder.plan(self, self._affine))

    def code_inverse(self, y: Tensor, coder: Coder, context: Tensor | None = None) -> Tensor:
        """`inverse` of whole numbers."""
        return coder.affine_inverse(y, coder.plan(self, self._affine))

    def _affine(self) -> Affine:
        return Affine.whitening(self.mean.detach(), self.log_sigma.detach())

    @torch.no_grad()
    def embed(self, narrow: Any, places: Places) -> Places:
        """The extra channels are noise already, but for their scale."""
        self.mean.zero_()
        self.log_sigma.copy_(torch.tensor(places.log_scales, dtype=torch.float64))
        self.mean[list(places.channels)] = narrow.mean
        self.log_sigma[list(places.channels)] = narrow.log_sigma
        return Places(places.channels, places.total)
