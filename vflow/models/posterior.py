"""q(z|x): where the extra dimensions come from (VFlow, Chen et al., 2020, Sec. 3)."""

from __future__ import annotations

from torch import Tensor, nn

from vflow.models.steps import ConditionalFlow, StepConfig, normal_log_prob
from vflow.nets import ContextNetwork


class FlowPosterior(nn.Module):
    """z from a conditional flow of the dequantized, preprocessed image.

    Args:
        shape: Shape [H, W, Dz] of z.
        in_channels: Channels of the image.
        config: The flow's couplings.
        own_context: False if `forward` is always given the context network of another flow.
    """

    def __init__(
        self, shape: tuple[int, int, int], in_channels: int, config: StepConfig, own_context: bool
    ) -> None:
        super().__init__()
        self.context = ContextNetwork(in_channels) if own_context else None
        self.conditional = ConditionalFlow(shape, config)

    def forward(
        self, x: Tensor, eps: Tensor, context: ContextNetwork | None = None
    ) -> tuple[Tensor, Tensor]:
        """x [B, H, W, C], eps [B, H, W, Dz] ~ N(0, I) -> z in (0, 1), log q(z|x) [B] in nats."""
        network = context if self.context is None else self.context
        assert network is not None
        return self.conditional(eps, network(x))


class NormalPosterior(nn.Module):
    """z ~ N(0, I), whatever x is (VFlow, Theorem 1)."""

    def forward(
        self, x: Tensor, eps: Tensor, context: ContextNetwork | None = None
    ) -> tuple[Tensor, Tensor]:
        """eps [B, H, W, Dz] -> z = eps, log q(z|x) [B] in nats."""
        return eps, normal_log_prob(eps)
