"""Invertible residual blocks: the layer of i-ResNets and Residual Flows."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from vflow.flows.base import Flow
from vflow.nets.lipschitz import LipschitzMLP

EXACT_DIMS = 16
"""Dimensions up to which the Jacobian is written out."""
SURE_TERMS = 4
"""Terms of the series that every estimate has."""
CONTINUE = 0.5
"""Probability of each further term."""
MAX_ITERATIONS = 2000


class ResidualBlock(Flow):
    """y = x + g(x), where g has a Lipschitz constant below 1 (Behrmann et al., 2019).

    The log-determinant is exact up to `exact_dims` dimensions, from the whole Jacobian I + J. Above
    that it is the unbiased estimate of Residual Flows (Chen et al., 2019, Eq. 6): the series
    sum_k (-1)^(k+1) / k tr(J^k), cut at a random length and weighted for it (Russian roulette),
    with v^T J^k v in the place of the trace. Its noise comes from torch's global generator.

    It has no coding rule: its inverse is a limit, not a formula.

    Args:
        net: The network g on vectors [B, D].
        exact_dims: Largest D whose log-determinant is exact.
    """

    def __init__(self, net: LipschitzMLP, exact_dims: int = EXACT_DIMS) -> None:
        super().__init__()
        self.net = net
        self.exact_dims = exact_dims

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """x [B, D] -> y [B, D], logdet [B]."""
        residual, push = self.net.linearize(x)
        batch, dims = x.shape
        if dims > self.exact_dims:
            return x + residual, self._estimate(x, push)
        identity = torch.eye(dims, dtype=x.dtype, device=x.device)
        # Row i is J e_i: the transpose of J, with the same determinant.
        jacobian = identity + push(identity.expand(batch, dims, dims))
        return x + residual, torch.linalg.slogdet(jacobian).logabsdet

    @torch.no_grad()
    def inverse(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """y [B, D] -> x [B, D], logdet [B]; the fixed point of x = y - g(x). No gradients flow."""
        tolerance = 4 * torch.finfo(y.dtype).eps * max(1.0, y.abs().max().item())
        x = y
        for _ in range(MAX_ITERATIONS):
            following = y - self.net(x)
            change = (following - x).abs().max().item()
            x = following
            if not change > tolerance:  # NaN ends it too
                break
        return x, -self.forward(x)[1]

    @staticmethod
    def _estimate(x: Tensor, push: Callable[[Tensor], Tensor]) -> Tensor:
        probe = torch.randn_like(x).unsqueeze(1)
        further = int(torch.distributions.Geometric(1 - CONTINUE).sample())
        total = x.new_zeros(len(x))
        tangent = probe
        for k in range(1, SURE_TERMS + further + 1):
            tangent = push(tangent)
            reached = CONTINUE ** max(0, k - SURE_TERMS)
            sign = 1 if k % 2 else -1
            total = total + (sign / (k * reached)) * (probe * tangent).sum((1, 2))
        return total
