"""Flows of a user's own, and of zuko, normflows and nflows, as our layers.

None of those libraries is imported: what they give is told by its methods.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from vflow.flows.base import Flow, Shapes

Map = Callable[[Any, Tensor | None], tuple[Any, Tensor]]


class AdaptedFlow(Flow):
    """An invertible map from elsewhere.

    Args:
        owner: What the map belongs to; if it is a module, its parameters are this flow's.
        name: What it is called in errors.
        forward: (x, context) -> (y, log-determinant).
        inverse: (y, context) -> (x, log-determinant).
    """

    def __init__(self, owner: Any, name: str, forward: Map, inverse: Map) -> None:
        super().__init__()
        self.owner = owner  # registered if it is a module
        self.name = name
        self._maps = (forward, inverse)
        self._latent_shapes: Shapes | None = None

    def forward(self, x: Any, context: Tensor | None = None) -> tuple[Any, Tensor]:
        """Map x to y."""
        y, logdet = self._checked("forward", self._maps[0](x, context), x)
        if self._latent_shapes is None:
            self._latent_shapes = _shapes_of(y)
        return y, logdet

    def inverse(self, y: Any, context: Tensor | None = None) -> tuple[Any, Tensor]:
        """Map y back to x."""
        return self._checked("inverse", self._maps[1](y, context), y)

    def output_shape(self, shape: Shapes) -> Shapes:
        """The shape of the latent, as the first one seen had it; that of x for vectors."""
        if self._latent_shapes is None and len(shape) == 1:
            return shape
        if self._latent_shapes is None:
            raise ValueError(
                f"{self.name} must have mapped a batch before sampling: the shape of its latent "
                "is not known"
            )
        return self._latent_shapes

    def _checked(self, what: str, result: Any, given: Any) -> tuple[Any, Tensor]:
        rule = f"{self.name}.{what} must return (value, log-determinant [B])"
        if not isinstance(result, tuple) or len(result) != 2:
            raise ValueError(f"{rule}, got {type(result).__name__}")
        value, logdet = result
        if isinstance(value, list):
            value = tuple(value)
        batch = len(given[0] if isinstance(given, tuple) else given)
        if not isinstance(logdet, Tensor) or tuple(logdet.shape) != (batch,):
            came = tuple(logdet.shape) if isinstance(logdet, Tensor) else type(logdet).__name__
            raise ValueError(f"{rule}, got a log-determinant of {came} for a batch of {batch}")
        return value, logdet


class AdaptedBase:
    """The base density of another library's distribution."""

    def __init__(self, log_prob: Callable[[Any], Tensor], draw: Callable[[int], Any]) -> None:
        self._log_prob, self._draw = log_prob, draw

    def log_prob(self, eps: Any) -> Tensor:
        """eps [B, ...] -> [B], nats."""
        return self._log_prob(eps)

    def draw(
        self, shape: tuple[int, ...], like: Tensor, generator: torch.Generator | None = None
    ) -> Any:
        """As many as shape[0], from torch's global generator."""
        if generator is not None:
            raise ValueError("generator must be None: the base density draws from the global one")
        return self._draw(shape[0])


def adapt(flow: Any) -> tuple[Flow, AdaptedBase | None]:
    """A flow as one of our layers, from data to latent, and its base density if it has one.

    Args:
        flow: One of our layers; a module or object whose `forward` (or call) and `inverse` return
            (value, log-determinant [B]), as nflows' transforms and normflows' flows do; a
            `torch.distributions` or zuko transform; or a whole distribution of nflows
            (`nflows.flows.Flow`), normflows (`NormalizingFlow`) or zuko (`zuko.flows.Flow`).

    Raises:
        ValueError: If it is none of these.
    """
    if isinstance(flow, Flow):
        return flow, None
    name = type(flow).__name__
    for matches, make in _ADAPTERS:
        if matches(flow):
            return make(flow, name)
    raise ValueError(
        "flow must have forward and inverse that return (value, log-determinant), or be a flow of "
        f"vflow, zuko, normflows or nflows, got {name}"
    )


def _of(library: str, flow: Any, *attributes: str) -> bool:
    """Whether it is of a class, or of a user's subclass of one, of that library."""
    modules = {cls.__module__.partition(".")[0] for cls in type(flow).__mro__}
    return library in modules and all(hasattr(flow, attribute) for attribute in attributes)


def _from_nflows(flow: Any, name: str) -> tuple[Flow, AdaptedBase]:
    transform, base = flow._transform, flow._distribution
    adapted = AdaptedFlow(flow, name, transform.forward, transform.inverse)
    return adapted, AdaptedBase(base.log_prob, base.sample)


def _from_normflows(flow: Any, name: str) -> tuple[Flow, AdaptedBase]:
    # Its forward runs from the latent to the data.
    adapted = AdaptedFlow(
        flow,
        name,
        lambda x, context: flow.inverse_and_log_det(x),
        lambda y, context: flow.forward_and_log_det(y),
    )
    return adapted, AdaptedBase(flow.q0.log_prob, lambda n: flow.q0.forward(n)[0])


def _from_zuko(flow: Any, name: str) -> tuple[Flow, AdaptedBase]:
    adapted = _transform_flow(flow, name, flow.transform)
    return adapted, AdaptedBase(
        lambda eps: flow.base(None).log_prob(eps), lambda n: flow.base(None).sample((n,))
    )


def _transform_flow(owner: Any, name: str, make: Callable[[Tensor | None], Any]) -> AdaptedFlow:
    """Of something that makes a `torch.distributions` transform of a context."""

    def forward(x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        transform = make(context)
        if hasattr(transform, "call_and_ladj"):
            y, logdet = transform.call_and_ladj(x)
        else:
            y = transform(x)
            logdet = transform.log_abs_det_jacobian(x, y)
        # An elementwise transform gives one log-derivative an element.
        return y, logdet.flatten(1).sum(1) if logdet.ndim > 1 else logdet

    def inverse(y: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        x = make(context).inv(y)
        return x, -forward(x, context)[1]

    return AdaptedFlow(owner, name, forward, inverse)


def _plain(flow: Any, name: str) -> tuple[Flow, None]:
    call = flow if isinstance(flow, nn.Module) or not hasattr(flow, "forward") else flow.forward

    def forward(x: Any, context: Tensor | None) -> Any:
        return call(x) if context is None else call(x, context)

    def inverse(y: Any, context: Tensor | None) -> Any:
        return flow.inverse(y) if context is None else flow.inverse(y, context)

    return AdaptedFlow(flow, name, forward, inverse), None


_ADAPTERS: list[tuple[Callable[[Any], bool], Callable[[Any, str], Any]]] = [
    (lambda flow: _of("nflows", flow, "_transform", "_distribution"), _from_nflows),
    (lambda flow: _of("normflows", flow, "inverse_and_log_det", "q0"), _from_normflows),
    (lambda flow: _of("zuko", flow, "transform", "base") and callable(flow), _from_zuko),
    (
        lambda flow: isinstance(flow, torch.distributions.Transform),
        lambda flow, name: (_transform_flow(flow, name, lambda context: flow), None),
    ),
    (
        lambda flow: _of("zuko", flow, "inv", "forward"),
        lambda flow, name: (_transform_flow(flow, name, flow), None),
    ),
    (lambda flow: callable(flow) and callable(getattr(flow, "inverse", None)), _plain),
]


def _shapes_of(value: Any) -> Shapes:
    if isinstance(value, tuple):
        return tuple(tuple(part.shape[1:]) for part in value)
    return tuple(value.shape[1:])
