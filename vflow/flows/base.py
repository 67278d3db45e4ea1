"""What an invertible layer is, and how layers combine."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeAlias

from torch import Tensor, nn

from vflow.flows.embedding import CannotEmbed, Places
from vflow.ops.coder import Coder

Halves: TypeAlias = tuple[Tensor, Tensor]
Shape: TypeAlias = tuple[int, ...]
"""Of one example, without the batch: [H, W, C] or [D]."""
Shapes: TypeAlias = tuple[Any, ...]
"""A `Shape`, or a tuple of them for a layer that takes or gives several tensors."""


class Flow(nn.Module):
    """An invertible map.

    `forward(x, context=None)` gives `(y, logdet)` and `inverse(y, context=None)` gives
    `(x, logdet)`, where logdet [B] is log|det| of the map just applied, in nats: the inverse's is
    minus the forward's. What x and y are, a tensor or several, is the layer's own.
    """

    def forward(self, x: Any, context: Tensor | None = None) -> tuple[Any, Tensor]:
        """Map x to y."""
        raise NotImplementedError

    def inverse(self, y: Any, context: Tensor | None = None) -> tuple[Any, Tensor]:
        """Map y back to x."""
        raise NotImplementedError

    def output_shape(self, shape: Shapes) -> Shapes:
        """The shape of y for an x of this shape."""
        return shape

    def input_shape(self, shape: Shapes) -> Shapes:
        """The shape of x for a y of this shape."""
        return shape

    def embed(self, narrow: Any, places: Any) -> Any:
        """Become `narrow` on some channels, and leave the others alone (`vflow.flows.embedding`).

        Args:
            narrow: The layer of fewer channels.
            places: Where its input's channels are among this layer's, `Places` or a pair of them.

        Returns:
            Where its output's channels are among this layer's output.

        Raises:
            CannotEmbed: If no parameters make this layer do so; says why.
        """
        raise CannotEmbed(
            f"{type(self).__name__} has no parameters that leave the extra channels alone"
        )

    def embed_inverse(self, narrow: Any, places: Any) -> Any:
        """`embed` of the layer run backwards."""
        raise CannotEmbed(
            f"the inverse of {type(self).__name__} has no parameters that leave the extra channels "
            "alone"
        )

    def wanted_places(self, narrow: Any, places: Any) -> Any:
        """Where this layer would have the channels of `narrow`'s input, if any could be had."""
        return places

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

    def output_shape(self, shape: Shapes) -> Shapes:
        """Through every flow."""
        for flow in self.flows:
            shape = flow.output_shape(shape)  # type: ignore[operator]
        return shape

    def input_shape(self, shape: Shapes) -> Shapes:
        """Back through every flow."""
        for flow in reversed(self.flows):
            shape = flow.input_shape(shape)  # type: ignore[operator]
        return shape

    def embed(self, narrow: Any, places: Any) -> Any:
        """Embed flow by flow; a linear layer puts the channels where the next flow wants them."""
        for index, (flow, old) in enumerate(zip(self.flows, narrow.flows, strict=True)):
            wanted = None
            if getattr(flow, "rearranges", False) and index + 1 < len(self.flows):
                following: Any = self.flows[index + 1]
                wanted = following.wanted_places(narrow.flows[index + 1], places)
            try:
                if wanted is None:
                    places = flow.embed(old, places)  # type: ignore[operator]
                else:
                    places = flow.embed(old, places, wanted)  # type: ignore[operator]
            except CannotEmbed as error:
                raise error.at(index) from None
        return places

    def wanted_places(self, narrow: Any, places: Any) -> Any:
        """What the first flow wants."""
        first: Any = self.flows[0] if len(self.flows) else None
        return places if first is None else first.wanted_places(narrow.flows[0], places)

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

    def output_shape(self, shape: Shapes) -> Shapes:
        """The flow's input shape."""
        return self.flow.input_shape(shape)

    def input_shape(self, shape: Shapes) -> Shapes:
        """The flow's output shape."""
        return self.flow.output_shape(shape)

    def embed(self, narrow: Any, places: Any) -> Any:
        """The flow's `embed_inverse`."""
        return self.flow.embed_inverse(narrow.flow, places)

    def embed_inverse(self, narrow: Any, places: Any) -> Any:
        """The flow's `embed`."""
        return self.flow.embed(narrow.flow, places)

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

    def output_shape(self, shape: Shapes) -> Shapes:
        """Of each half."""
        return (self.first.output_shape(shape[0]), self.second.output_shape(shape[1]))

    def input_shape(self, shape: Shapes) -> Shapes:
        """Of each half."""
        return (self.first.input_shape(shape[0]), self.second.input_shape(shape[1]))

    def embed(self, narrow: Any, places: tuple[Places, Places]) -> tuple[Places, Places]:
        """Embed in each half."""
        return (
            self.first.embed(narrow.first, places[0]),
            self.second.embed(narrow.second, places[1]),
        )

    def code(self, x: Halves, coder: Coder, context: Tensor | None = None) -> Halves:
        """Code the first half, then the second."""
        first = self.first.code(x[0], coder, context)
        return first, self.second.code(x[1], coder, context)

    def code_inverse(self, y: Halves, coder: Coder, context: Tensor | None = None) -> Halves:
        """Undo the second half, then the first."""
        second = self.second.code_inverse(y[1], coder, context)
        return self.first.code_inverse(y[0], coder, context), second
