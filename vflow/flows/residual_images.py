"""Invertible residual blocks on images, whose Jacobians are rarely wanted whole."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from vflow.flows.base import Flow
from vflow.flows.embedding import Places
from vflow.flows.residual import CONTINUE, SURE_TERMS, fixed_point
from vflow.nets import LipschitzNet

TANGENTS = 512
"""Tangents moved at once where the whole Jacobian is made, over all images: what bounds memory."""


class ImageResidualBlock(Flow):
    """y = x + g(x) on images (Chen et al., 2019), with the log-determinant that is asked for.

    Its Jacobian has as many rows as the image has elements: exact log-determinants of large images
    are for evaluations that can wait. So the context says which one is wanted:

    - None: the exact one.
    - Noise [B, blocks, D + 1], standard normal, of which a block takes its own [B, D + 1]: an
      unbiased estimate (Chen et al., 2019, Eq. 6), a function of the noise, image by image, so that
      runs that resume and processes that share a batch find the same. Its gradient is unbiased too,
      by the Neumann series of (I + J)^-1 (Eq. 8), which keeps one product with J for the backward
      pass however long the series is. The first D numbers are the trace's probe; the last one says
      where the series ends.
    - Nothing, [B, 0, 0]: none, and the log-determinant is NaN.

    It has no coding rule: its inverse is a limit, not a formula.

    Args:
        net: The network g.
        index: Which of the flow's blocks it is.
    """

    def __init__(self, net: LipschitzNet, index: int) -> None:
        super().__init__()
        self.net = net
        self.index = index

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """x [B, H, W, C] -> y alike, logdet [B]."""
        residual, push = self.net.linearize(x)
        if context is None:
            logdet = _exact(x, push)
        elif context.shape[1] == 0:
            logdet = x.new_full((x.shape[0],), math.nan)
        else:
            logdet = _estimate(push, context[:, self.index])
        return x + residual, logdet

    def inverse(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """y [B, H, W, C] -> x alike, logdet [B]; no gradient flows to y."""
        x = fixed_point(self.net, y)
        return x, -self.forward(x, context)[1]

    def embed(self, narrow: Any, places: Places) -> Places:
        """The network sees nothing of the extra channels and adds nothing to them."""
        pixels = range(self.net.positions)
        channels = tuple(pixel * places.total + c for pixel in pixels for c in places.channels)
        self.net.embed(narrow.net, Places(channels, len(pixels) * places.total))
        return places


def no_logdet(x: Tensor) -> Tensor:
    """The context by which blocks leave their log-determinants out.

    Args:
        x: Any tensor of that batch, [B, ...].
    """
    return x.new_empty(x.shape[0], 0, 0)


def _exact(x: Tensor, push: Callable[[Tensor], Tensor]) -> Tensor:
    """log |det(I + J)| [B]."""
    batch, dims = x.shape[0], x[0].numel()
    identity = torch.eye(dims, dtype=x.dtype, device=x.device)
    parts = [
        push(rows.expand(batch, *rows.shape)) for rows in identity.split(max(1, TANGENTS // batch))
    ]
    return torch.linalg.slogdet(identity + torch.cat(parts, 1)).logabsdet


def _estimate(push: Callable[[Tensor], Tensor], noise: Tensor) -> Tensor:
    """An estimate [B] of log |det(I + J)|, its gradient one of the gradient; noise [B, D + 1]."""
    probe, coin = noise[:, None, :-1], noise[:, -1]
    # A tail probability of a standard normal number is uniform.
    further = torch.special.log_ndtr(coin.double()).div(math.log(CONTINUE)).floor()
    length = SURE_TERMS + int(further.max())
    with torch.no_grad():
        total, tangent, series = probe.new_zeros(len(probe)), probe, probe
        for k in range(1, length + 1):
            tangent = push(tangent)
            reached = max(0, k - SURE_TERMS)
            weight = ((-1) ** k / CONTINUE**reached * (further >= reached)).to(probe)
            total = total - weight / k * (probe * tangent).sum((1, 2))
            series = series + weight[:, None, None] * tangent
    if not torch.is_grad_enabled():
        return total
    slope = (probe * push(series)).sum((1, 2))
    return total + slope - slope.detach()
