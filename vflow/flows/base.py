"""What an invertible layer is, and how layers combine."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeAlias

from torch import Tensor, nn

from vflow.ops.coder import Coder

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

    def code(self, x: Any, coder: Coder, context: Tensor | None = None) -> Any:
        """`forward` of whole numbers, int64 over 2^32, for lossless coding: x -> y.

        What the map takes and gives in volume it pops from and pushes to the coder's stacks; the
        context is float.

        Raises:
            ValueError: If the layer has no coding rule, or a value is beyond it.
        """
        raise ValueError(f"{type(self).__name__} has no coding rule: it cannot compress")

    def code_inverse(self, y: Any, coder: Coder, context: Tensor | None = None) -> Any:
        """Undo `code`, numbers and bits alike: y -> x."""
        raise ValueError(f"{type(self).__name__} has no coding rule: it cannot decompress")


class Move(Flow):
    """A map that only moves elements about, which costs no bits."""

    def code(self, x: Any, coder: Coder, context: Tensor | None = None) -> Any:
        """`forward` of whole numbers."""
        return self.forward(x)[0]

    def code_inverse(self, y: Any, coder: Coder, context: Tensor | None = None) -> Any:
        """`inverse` of whole numbers."""
        return self.inverse(y)[0]


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

    def code(self, x: Any, coder: Coder, context: Tensor | None = None) -> Any:
        """The flows' `code` in order."""
        for flow in self.flows:
            x = flow.code(x, coder, context)  # type: ignore[operator]
        return x

    def code_inverse(self, y: Any, coder: Coder, context: Tensor | None = None) -> Any:
        """The flows' `code_inverse` in reverse order."""
        for flow in reversed(self.flows):
            y = flow.code_inverse(y, coder, context)  # type: ignore[operator]
        return y


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

    def code(self, x: Any, coder: Coder, context: Tensor | None = None) -> Any:
        """The flow's `code_inverse`."""
        return self.flow.code_inverse(x, coder, context)

    def code_inverse(self, y: Any, coder: Coder, context: Tensor | None = None) -> Any:
        """The flow's `code`."""
        return self.flow.code(y, coder, context)


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

    def code(self, x: Halves, coder: Coder, context: Tensor | None = None) -> Halves:
        """Code the first half, then the second."""
        first = self.first.code(x[0], coder, context)
        return first, self.second.code(x[1], coder, context)

    def code_inverse(self, y: Halves, coder: Coder, context: Tensor | None = None) -> Halves:
        """Undo the second half, then the first."""
        second = self.second.code_inverse(y[1], coder, context)
        return self.first.code_inverse(y[0], coder, context), second
