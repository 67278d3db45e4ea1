"""Invertible residual blocks: the layer of i-ResNets and Residual Flows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from vflow.flows.base import Compose, Flow
from vflow.flows.embedding import Places
from vflow.nets import LipschitzMLP, LipschitzNet

SURE_TERMS = 4
"""Terms of the series that every estimate has."""
CONTINUE = 0.5
"""Probability of each further term."""
MAX_ITERATIONS = 2000


class ResidualBlock(Flow):
    """y = x + g(x), where g has a Lipschitz constant below 1 (Behrmann et al., 2019).

    The log-determinant is exact, from the whole Jacobian I + J [B, D, D]. `estimate` has a random
    one in its place, which costs a few products with J whatever D is.

    It has no coding rule: its inverse is a limit, not a formula.

    Args:
        net: The network g on vectors [B, D].
    """

    def __init__(self, net: LipschitzMLP) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """x [B, D] -> y [B, D], logdet [B]."""
        residual, push = self.net.linearize(x)
        return x + residual, torch.linalg.slogdet(_jacobian(x, push)).logabsdet

    def inverse(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """y [B, D] -> x [B, D], logdet [B]; the fixed point of x = y - g(x)."""
        x = fixed_point(self.net, y)
        if torch.is_grad_enabled():
            x = self._with_gradient(x, y)
        return x, -self.forward(x)[1]

    def estimate(
        self, x: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """`forward` with a random, unbiased estimate of the log-determinant.

        That of Residual Flows (Chen et al., 2019, Eq. 6): the series sum_k (-1)^(k+1) / k tr(J^k),
        cut at a random length and weighted for it (Russian roulette), with v^T J^k v in the place
        of the trace. Its exponential, or a maximum over draws of it, is biased upwards: it serves
        training, not a bound.

        Args:
            x: [B, D].
            generator: Where its noise is drawn from; the global one if None.

        Returns:
            y [B, D], the estimate [B] in nats.
        """
        residual, push = self.net.linearize(x)
        device = generator.device if generator is not None else x.device
        probe = torch.randn(x.shape, generator=generator, device=device, dtype=x.dtype).to(x.device)
        # Drawn on the CPU if nothing is said: the length of the loop is the host's to know.
        host = generator.device if generator is not None else torch.device("cpu")
        coin = torch.rand((), generator=generator, device=host, dtype=torch.float64)
        further = _geometric(float(coin))
        tangent = probe.unsqueeze(1)
        total = x.new_zeros(x.shape[0])
        for k in range(1, SURE_TERMS + further + 1):
            tangent = push(tangent)
            reached = CONTINUE ** max(0, k - SURE_TERMS)
            sign = 1 if k % 2 else -1
            total = total + (sign / (k * reached)) * (probe.unsqueeze(1) * tangent).sum((1, 2))
        return x + residual, total

    def _with_gradient(self, x: Tensor, y: Tensor) -> Tensor:
        """The fixed point with its gradient, by one step of Newton's method from it.

        dx = (I + J)^-1 (dy - dg): what the implicit function theorem says, to first order.
        """
        x = x.detach()
        residual, push = self.net.linearize(x)
        with torch.no_grad():
            transposed = _jacobian(x, push)
        missing = y - residual - x  # zero but for rounding; what counts is its gradient
        return x + torch.linalg.solve(transposed.mT, missing)

    def embed(self, narrow: Any, places: Places) -> Places:
        """The network sees nothing of the extra channels and adds nothing to them."""
        net: Any = self.net
        net.embed(narrow.net, places, places, torch.zeros(1))
        return places


@torch.no_grad()
def fixed_point(net: LipschitzMLP | LipschitzNet, y: Tensor) -> Tensor:
    """The x with x + g(x) = y, to rounding.

    Args:
        net: The network g, of a Lipschitz constant below 1.
        y: [B, ...], as the network takes it.
    """
    tolerance = 4 * torch.finfo(y.dtype).eps * max(1.0, y.abs().max().item())
    x, weights = y, net.weights()
    for _ in range(MAX_ITERATIONS):
        following = y - net(x, weights)
        change = (following - x).abs().max().item()
        x = following
        if not change > tolerance:  # NaN ends it too
            break
    return x


def estimate(
    flow: Flow, x: Tensor, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """`flow.forward`, with `ResidualBlock.estimate` in its residual blocks.

    Args:
        flow: Flows of vectors.
        x: [B, D].
        generator: Where the noise is drawn from; the global one if None.

    Returns:
        The latent [B, D], an unbiased estimate of the log-determinant [B] in nats.
    """
    assert isinstance(flow, Compose)
    total = x.new_zeros(x.shape[0])
    for layer in flow.flows:
        if isinstance(layer, ResidualBlock):
            x, logdet = layer.estimate(x, generator)
        else:
            x, logdet = layer(x, None)
        total = total + logdet
    return x, total


def _jacobian(x: Tensor, push: Callable[[Tensor], Tensor]) -> Tensor:
    """The transpose of I + J, [B, D, D], whose determinant is the same: row i is e_i + J e_i."""
    batch, dims = x.shape
    identity = torch.eye(dims, dtype=x.dtype, device=x.device)
    return identity + push(identity.expand(batch, dims, dims))


def _geometric(coin: float) -> int:
    """Further terms, n with probability (1 - CONTINUE) CONTINUE^n, from a number in [0, 1)."""
    further, reached = 0, CONTINUE
    while coin < reached:
        further, reached = further + 1, reached * CONTINUE
    return further
