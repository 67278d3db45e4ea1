"""ActNorm and the invertible 1x1 convolution, fused: the linear part of every step."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vflow.flows.base import Flow
from vflow.ops import actnorm_conv1x1, actnorm_conv1x1_inverse
from vflow.ops.coder import Coder, LinearPlan

VARIANCE_EPSILON = 1e-8
LEAST_SCALE = 1e-10


class ActNormConv1x1(Flow):
    """y = (x * scale + bias) W, with scale and bias per element (Ho et al., 2019).

    Called once by `vflow.models.initialization` on its first input, `data_init` makes every
    element of x * scale + bias have mean 0 and standard deviation 1 over the batch.

    Args:
        shape: Shape of one example, [H, W, C] of a half or [D] of a vector.
        weight_std: W starts at I + weight_std * N(0, 1).
    """

    def __init__(self, shape: tuple[int, ...], weight_std: float = 0.01) -> None:
        super().__init__()
        channels = shape[-1]
        self.scale = nn.Parameter(torch.ones(shape))
        self.bias = nn.Parameter(torch.zeros(shape))
        self.weight = nn.Parameter(
            torch.eye(channels) + weight_std * torch.randn(channels, channels)
        )

    @torch.no_grad()
    def data_init(self, x: Tensor, context: Tensor | None = None) -> None:
        """Set scale and bias from the batch x [B, *shape], B at least 2."""
        variance, mean = torch.var_mean(x, dim=0, correction=0)
        self.scale.copy_(torch.rsqrt(variance + VARIANCE_EPSILON))
        self.bias.copy_(-mean * self.scale)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """x [B, *shape] -> y [B, *shape], logdet [B]."""
        return actnorm_conv1x1(x, self.scale, self.bias, self.weight)

    def inverse(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """y [B, *shape] -> x [B, *shape], logdet [B]."""
        return actnorm_conv1x1_inverse(y, self.scale, self.bias, self.weight)

    def code(self, x: Tensor, coder: Coder, context: Tensor | None = None) -> Tensor:
        """x [B, *shape] -> y [B, *shape], int64: scales that are coded, and rounded sums."""
        return coder.plan(self, self._plan).forward(x, coder)

    def code_inverse(self, y: Tensor, coder: Coder, context: Tensor | None = None) -> Tensor:
        """y [B, *shape] -> x [B, *shape], int64."""
        return coder.plan(self, self._plan).inverse(y, coder)

    def _plan(self) -> LinearPlan:
        scale, bias, weight = (p.detach().double() for p in (self.scale, self.bias, self.weight))
        return LinearPlan(scale.clamp_min(LEAST_SCALE), bias, weight)
