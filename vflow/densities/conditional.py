"""Conditional densities run from noise to value: q(z|x) and r(u|x) are these."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from vflow.densities.bases import Base, Normal
from vflow.flows import Flow


class ConditionalDensity(nn.Module):
    """value = g(eps; features(x)): a sample and its log-density are one differentiable pass.

    Args:
        flow: The transform g, from noise to value; None for value = eps, whatever x is.
        features: What g is told of x; None for x itself.
        base: What eps is drawn from; N(0, I) if None.
        prepare: A function of x before `features`.
    """

    def __init__(
        self,
        flow: Flow | None = None,
        features: nn.Module | None = None,
        base: Base | None = None,
        prepare: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.context = features
        self.flow = flow
        self.base: Base = Normal() if base is None else base
        self.prepare = prepare
        self._borrowed: tuple[nn.Module, ...] = ()

    def borrow_features(self, network: nn.Module) -> None:
        """Read x with another density's network, whose parameters stay that density's."""
        self._borrowed = (network,)  # within a tuple, it is registered once

    def forward(
        self, x: Tensor, eps: Tensor, features: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """x [B, ...], eps [B, ...] -> value, log-density [B] in nats; features(x) may be given."""
        if self.flow is None:
            return eps, self.base.log_prob(eps)
        value, logdet = self.flow(eps, self.features(x) if features is None else features)
        return value, self.base.log_prob(eps) - logdet

    def features(self, x: Tensor) -> Tensor:
        """What the transform is told of x [B, ...]."""
        network: Any = self.context if not self._borrowed else self._borrowed[0]
        prepared = x if self.prepare is None else self.prepare(x)
        features: Tensor = prepared if network is None else network(prepared)
        return features
