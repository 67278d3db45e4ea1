"""What an invertible layer is, and how layers combine."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeAlias

from torch import Tensor, nn

Halves: TypeAlias = tuple[Tensor, Tensor]


class Flow(nn.Module):
    """An invertible map.

    `forward(x, context=None)` gives `(y, logdet)` and `inverse(y, context=None)` gives
    `(x, logdet)`, where logdet [B] is log|det| of the map just applied, in nats: the inverse's is
    minus the forward's. What x and y are, a tensor or a pair of halves, is the layer's own.
    """

    def forward(self, x: Any, context: Tensor | None = None) -> tuple[Any, Tensor]:
        """Map x to y."""
        raise NotImplementedError

    def inverse(self, y: Any, context: Tensor | None = None) -> tuple[Any, Tensor]:
        """Map y back to x."""
        raise NotImplementedError


def zero_logdet(x: Tensor) -> Tensor:
    """The log-determinant [B] of a map that only moves elements about."""
    return x.new_zeros(x.shape[0])


class Compose(Flow):
    """Flows applied one after the other."""

    def __init__(self, flows: Iterable[Flow]) -> None:
        super().__init__()
        self.flows = nn.ModuleList(flows)

    def forward(self, x: Any, context: Tensor | None = None) -> tuple[Any, Tensor]:
        """Apply the flows in order."""
        total: Tensor | float = 0.0
        for flow in self.flows:
            x, logdet = flow(x, context)
            total = total + logdet
        assert isinstance(total, Tensor)
        return x, total

    def inverse(self, y: Any, context: Tensor | None = None) -> tuple[Any, Tensor]:
        """Apply the inverses in reverse order."""
        total: Tensor | float = 0.0
        for flow in reversed(self.flows):
            y, logdet = flow.inverse(y, context)  # type: ignore[operator]
            total = total + logdet
        assert isinstance(total, Tensor)
        return y, total


class Inverse(Flow):
    """A flow run backwards."""

    def __init__(self, flow: Flow) -> None:
        super().__init__()
        self.flow = flow

    def forward(self, x: Any, context: Tensor | None = None) -> tuple[Any, Tensor]:
        """The flow's inverse."""
        return self.flow.inverse(x, context)

    def inverse(self, y: Any, context: Tensor | None = None) -> tuple[Any, Tensor]:
        """The flow itself."""
        return self.flow(y, context)


class PerHalf(Flow):
    """One flow for each half."""

    def __init__(self, first: Flow, second: Flow) -> None:
        super().__init__()
        self.first = first
        self.second = second

    def forward(self, x: Halves, context: Tensor | None = None) -> tuple[Halves, Tensor]:
        """Map both halves."""
        y1, logdet1 = self.first(x[0], context)
        y2, logdet2 = self.second(x[1], context)
        return (y1, y2), logdet1 + logdet2

    def inverse(self, y: Halves, context: Tensor | None = None) -> tuple[Halves, Tensor]:
        """Map both halves back."""
        x1, logdet1 = self.first.inverse(y[0], context)
        x2, logdet2 = self.second.inverse(y[1], context)
        return (x1, x2), logdet1 + logdet2
