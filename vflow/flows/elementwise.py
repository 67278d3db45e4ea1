"""Elementwise maps without parameters: the logit of the data and the sigmoid of the noise."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from vflow.flows.base import Flow

PIXEL_VALUES = 256
LOGIT_MARGIN = 0.05


class Preprocess(Flow):
    """Pixels in [0, 256) to the real line: logit(0.05 + 0.9 x / 256)."""

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """x [B, ...] in [0, 256) -> y [B, ...], logdet [B]."""
        slope = (1 - 2 * LOGIT_MARGIN) / PIXEL_VALUES
        p = LOGIT_MARGIN + slope * x
        log_p, log_1p = torch.log(p), torch.log1p(-p)
        logdet = (math.log(slope) - log_p - log_1p).flatten(1).sum(1)
        return log_p - log_1p, logdet

    def inverse(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """y [B, ...] -> x [B, ...], logdet [B]; x leaves [0, 256) where |y| is above 2.944."""
        slope = (1 - 2 * LOGIT_MARGIN) / PIXEL_VALUES
        x = (torch.sigmoid(y) - LOGIT_MARGIN) / slope
        logdet = (F.logsigmoid(y) + F.logsigmoid(-y) - math.log(slope)).flatten(1).sum(1)
        return x, logdet


class Centre(Flow):
    """Pixels in [0, 256) to [-0.5, 0.5): x / 256 - 0.5, as openai/glow has it."""

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """x [B, ...] in [0, 256) -> y [B, ...], logdet [B]."""
        return x / PIXEL_VALUES - 0.5, self._logdet(x)

    def inverse(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """y [B, ...] -> x [B, ...], logdet [B]; x leaves [0, 256) where y leaves [-0.5, 0.5)."""
        return (y + 0.5) * PIXEL_VALUES, -self._logdet(y)

    @staticmethod
    def _logdet(x: Tensor) -> Tensor:
        return x.new_full((x.shape[0],), -math.log(PIXEL_VALUES) * x[0].numel())


class Sigmoid(Flow):
    """The real line to (0, 1)."""

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """x [B, ...] -> y [B, ...] in (0, 1), logdet [B]."""
        logdet = (F.logsigmoid(x) + F.logsigmoid(-x)).flatten(1).sum(1)
        return torch.sigmoid(x), logdet

    def inverse(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """y [B, ...] in (0, 1) -> x [B, ...], logdet [B]."""
        log_y, log_1y = torch.log(y), torch.log1p(-y)
        return log_y - log_1y, -(log_y + log_1y).flatten(1).sum(1)
