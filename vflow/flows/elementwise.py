"""Elementwise maps without parameters: the logit of the data and the sigmoid of the noise."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from vflow.flows.base import Flow
from vflow.ops import exact
from vflow.ops.coder import GRID, GRID_BITS, Coder

PIXEL_VALUES = 256
LOGIT_MARGIN = 0.05

# For lossless coding. A pixel's noise needs fewer bits than other values do.
PIXEL_BITS = 26
PIXEL_CELL_BITS = 20  # of a cell, a 64th of a pixel
CENTRE_SPARE_BITS = PIXEL_BITS + PIXEL_VALUES.bit_length() - 1 - GRID_BITS
HALF = 1 << (GRID_BITS - 1)
SIGMOID_CELL_BITS = 27  # a cell is a 32nd
SIGMOID_REACH = 64  # code takes what is within +-64


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

    def code(self, x: Tensor, coder: Coder, context: Tensor | None = None) -> Tensor:
        """Pixels x, int64 over 2^26 -> y, int64 over 2^32."""
        return coder.table(x, coder.plan(self, _logit_edges), PIXEL_CELL_BITS)

    def code_inverse(self, y: Tensor, coder: Coder, context: Tensor | None = None) -> Tensor:
        """y, int64 over 2^32 -> pixels x, int64 over 2^26."""
        return coder.table_inverse(y, coder.plan(self, _logit_edges), PIXEL_CELL_BITS)


class Centre(Flow):
    """Pixels in [0, 256) to [-0.5, 0.5): x / 256 - 0.5, as openai/glow has it."""

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """x [B, ...] in [0, 256) -> y [B, ...], logdet [B]."""
        return x / PIXEL_VALUES - 0.5, self._logdet(x)

    def inverse(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """y [B, ...] -> x [B, ...], logdet [B]; x leaves [0, 256) where y leaves [-0.5, 0.5)."""
        return (y + 0.5) * PIXEL_VALUES, -self._logdet(y)

    def code(self, x: Tensor, coder: Coder, context: Tensor | None = None) -> Tensor:
        """Pixels x, int64 over 2^26 -> y, int64 over 2^32, which is too coarse for two bits."""
        coder.push_bits(x & ((1 << CENTRE_SPARE_BITS) - 1), CENTRE_SPARE_BITS)
        return (x >> CENTRE_SPARE_BITS) - HALF

    def code_inverse(self, y: Tensor, coder: Coder, context: Tensor | None = None) -> Tensor:
        """y, int64 over 2^32 -> pixels x, int64 over 2^26."""
        if y.numel() and (y.min() < -HALF or y.max() >= HALF):
            raise ValueError("a value is outside of what its layer can code")
        low = coder.pop_bits(tuple(y.shape), CENTRE_SPARE_BITS)
        return ((y + HALF) << CENTRE_SPARE_BITS) + low

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

    def code(self, x: Tensor, coder: Coder, context: Tensor | None = None) -> Tensor:
        """x, int64 over 2^32 -> y in [0, 1), alike."""
        first, edges = coder.plan(self, _sigmoid_edges)
        return coder.table(x, edges, SIGMOID_CELL_BITS, first)

    def code_inverse(self, y: Tensor, coder: Coder, context: Tensor | None = None) -> Tensor:
        """y in [0, 1), int64 over 2^32 -> x, alike."""
        first, edges = coder.plan(self, _sigmoid_edges)
        return coder.table_inverse(y, edges, SIGMOID_CELL_BITS, first)


def _logit_edges() -> Tensor:
    """Where the 64ths of pixels land, int64 [256 * 64 + 1]."""
    cells = 1 << (PIXEL_BITS - PIXEL_CELL_BITS)
    x = torch.arange(PIXEL_VALUES * cells + 1, dtype=torch.float64) / cells
    p = LOGIT_MARGIN + x * ((1 - 2 * LOGIT_MARGIN) / PIXEL_VALUES)
    return torch.round(exact.function("log", p / (1 - p)) * GRID).long()


def _sigmoid_edges() -> tuple[int, Tensor]:
    """The first cell's number, and where the cells land, int64: no two at one place."""
    cells = SIGMOID_REACH << (GRID_BITS - SIGMOID_CELL_BITS)
    number = torch.arange(-cells, cells + 1)
    x = number.double() * SIGMOID_REACH / cells
    room = GRID - 8 * cells
    return -cells, torch.round(exact.function("sigmoid", x) * room).long() + 2 * (number + cells)
