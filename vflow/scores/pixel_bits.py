"""Where in an image the bits go: the bound, split up among the pixels that its terms stand at.

A flow's log-likelihood is a sum over elements: the prior's terms, and each layer's log-slopes. An
element keeps its place from layer to layer but for the layers that only move elements about, and
those are followed here. So each term belongs to a pixel, and the map sums to the bound exactly.
What a term says is conditional on what its coupling saw elsewhere: the map tells where the model
was surprised, given the rest.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import singledispatch
from typing import Any, TypeAlias

import torch
from torch import Tensor

from vflow.densities import Augmented, Dequantized, FlowDensity
from vflow.densities.base import Density
from vflow.densities.bases import LOG_2PI, Uniform
from vflow.densities.conditional import ConditionalDensity
from vflow.flows import (
    ActNorm,
    ActNormConv1x1,
    Centre,
    ChannelSplit,
    ChannelWhitening,
    CheckerboardSplit,
    Compose,
    Conditioned,
    Coupling,
    FactorOut,
    Flow,
    Inverse,
    PerHalf,
    Preprocess,
    Sigmoid,
    SpaceToDepth,
    TupleFlip,
)
from vflow.models import ImageFlow

Places: TypeAlias = Any
"""The pixel of each element: int64 [H, W, C], or a pair of such for halves."""
Add: TypeAlias = Callable[[Tensor, Tensor], None]
"""Takes terms [B, H, W, C] in nats and their places."""


@torch.inference_mode()
def pixel_bits(
    model: ImageFlow,
    images: Tensor,
    eps_u: Tensor | None = None,
    eps_z: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Bits of each pixel under the one-sample bound; arguments and errors as for `model.elbo`.

    The model is taken as it stands: put it in evaluation mode first.

    Returns:
        [B, H, W]; sums over the pixels to -ELBO / ln 2 of each image.

    Raises:
        ValueError: If a layer's log-determinant is no sum over elements: a residual block's.
    """
    given = {name: eps for name, eps in (("eps_u", eps_u), ("eps_z", eps_z)) if eps is not None}
    noise = {**model.draw_noise(len(images), generator), **given}
    model.elbo(images, generator=None, **noise)  # checks the arguments
    _, height, width = model.data_shape
    nats = torch.zeros(len(images), height * width, dtype=torch.float64, device=model.device)

    def add(terms: Tensor, places: Tensor) -> None:
        nats.index_add_(1, places.flatten().to(nats.device), terms.flatten(1).double())

    pixels = torch.arange(height * width).view(height, width, 1)
    rows = {name: eps.permute(0, 2, 3, 1).contiguous() for name, eps in noise.items()}
    x = images.permute(0, 2, 3, 1).to(rows["eps_u"].dtype)
    _add_terms(model.density, x, pixels.expand(x.shape[1:]), rows, add)
    return (-nats / math.log(2)).view(-1, height, width)


def _add_terms(
    density: Density, x: Tensor, places: Tensor, noise: dict[str, Tensor], add: Add
) -> None:
    """Add the terms of a density's bound on log p(x) to their pixels."""
    if isinstance(density, Dequantized):
        u = _sampled(density.dequantizer, x, noise["eps_u"], places, add)
        value, _ = _follow(density.preprocess, x + u, places, None, add)
        _add_terms(density.density, value, places, noise, add)
    elif isinstance(density, Augmented):
        eps = noise["eps_z"]
        at_z = places[..., :1].expand(eps.shape[1:])
        z = _sampled(density.posterior, x, eps, at_z, add)
        joined = torch.cat([x, z], -1)
        _add_terms(density.density, joined, torch.cat([places, at_z], -1), noise, add)
    else:
        assert isinstance(density, FlowDensity)
        latent, at = _follow(density.flow, x, places, None, add)
        for part, where in zip(_tuple(latent), _tuple(at), strict=True):
            add(_normal_terms(part), where)


def _sampled(
    conditional: ConditionalDensity, x: Tensor, eps: Tensor, places: Tensor, add: Add
) -> Tensor:
    """A value of q(z|x) or r(u|x); takes the terms of its log-density off."""
    if not isinstance(conditional.base, Uniform):
        add(-_normal_terms(eps), places)
    if conditional.flow is None:
        return eps
    features = conditional.features(x)
    value, _ = _follow(conditional.flow, eps, places, features, add)
    return value


def _normal_terms(eps: Tensor) -> Tensor:
    return -0.5 * (eps.square() + LOG_2PI)


@singledispatch
def _follow(
    flow: Flow, x: Any, places: Places, context: Tensor | None, add: Add
) -> tuple[Any, Places]:
    """Run a flow on x, adding its log-slopes element by element: y, and the places of y."""
    raise ValueError(
        f"model must be of layers whose log-determinant is a sum over elements, "
        f"got a {type(flow).__name__}"
    )


@_follow.register
def _(flow: Compose, x: Any, places: Places, context: Tensor | None, add: Add) -> Any:
    for part in flow.flows:
        assert isinstance(part, Flow)
        x, places = _follow(part, x, places, context, add)
    return x, places


@_follow.register
def _(flow: PerHalf, x: Any, places: Places, context: Tensor | None, add: Add) -> Any:
    (y1, places1), (y2, places2) = (
        _follow(part, x[i], places[i], context, add)
        for i, part in enumerate((flow.first, flow.second))
    )
    return (y1, y2), (places1, places2)


@_follow.register(CheckerboardSplit)
@_follow.register(ChannelSplit)
@_follow.register(TupleFlip)
@_follow.register(SpaceToDepth)
@_follow.register(Inverse)
def _(flow: Flow, x: Any, places: Places, context: Tensor | None, add: Add) -> Any:
    if isinstance(flow, Inverse) and not isinstance(flow.flow, CheckerboardSplit | ChannelSplit):
        return _follow.dispatch(object)(flow, x, places, context, add)
    moved, _ = flow(_map(lambda part: part.unsqueeze(0).contiguous(), places), context)
    return flow(x, context)[0], _map(lambda part: part.squeeze(0), moved)


@_follow.register(Preprocess)
@_follow.register(Centre)
@_follow.register(Sigmoid)
def _(flow: Flow, x: Tensor, places: Tensor, context: Tensor | None, add: Add) -> Any:
    y, terms = flow(x.reshape(-1, 1), context)  # an element a row: its log-slope
    add(terms.view(x.shape), places)
    return y.view(x.shape), places


@_follow.register
def _(flow: ActNormConv1x1, x: Tensor, places: Tensor, context: Tensor | None, add: Add) -> Any:
    # The convolution mixes the channels of a position, which are of one pixel before SpaceToDepth
    # and of four after it; they share its log-determinant evenly.
    shared = torch.linalg.slogdet(flow.weight).logabsdet / x.shape[-1]
    add((flow.scale.abs().log() + shared).expand(x.shape), places)
    return flow(x, context)[0], places


@_follow.register
def _(flow: ActNorm, x: Tensor, places: Tensor, context: Tensor | None, add: Add) -> Any:
    add(flow.weight.abs().log().expand(x.shape), places)
    return flow(x, context)[0], places


@_follow.register
def _(flow: Coupling, x: Any, places: Places, context: Tensor | None, add: Add) -> Any:
    (x1, x2), count = x, flow.parameters_per_element
    params = flow.net(x1, context).reshape(-1, 1, 1, 1, count)
    y2, terms = flow.transform(x2.reshape(-1, 1, 1, 1), params)  # an element a row
    add(terms.view(x2.shape), places[1])
    return (x1, y2.view(x2.shape)), places


@_follow.register
def _(flow: Conditioned, x: Tensor, places: Tensor, context: Tensor | None, add: Add) -> Any:
    params = flow._params(context).reshape(-1, 1, 1, 1, flow.coupling.parameters_per_element)
    y, terms = flow.coupling.transform(x.reshape(-1, 1, 1, 1), params)
    add(terms.view(x.shape), places)
    return y.view(x.shape), places


@_follow.register
def _(flow: ChannelWhitening, x: Tensor, places: Tensor, context: Tensor | None, add: Add) -> Any:
    add((-flow.log_sigma).expand(x.shape), places)
    return flow(x, context)[0], places


@_follow.register
def _(flow: FactorOut, x: Tensor, places: Tensor, context: Tensor | None, add: Add) -> Any:
    kept = flow.kept
    y, where = _follow(flow.rest, x[..., :kept], places[..., :kept], context, add)
    eps, at = x[..., kept:], places[..., kept:]
    if flow.prior is not None:
        mean, log_sigma = flow._mean_and_log_sigma(x[..., :kept])
        add(-log_sigma, at)
        eps = (eps - mean) * torch.exp(-log_sigma)
    return (eps, *_tuple(y)), (at, *_tuple(where))


def _tuple(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


def _map(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    return tuple(map(function, value)) if isinstance(value, tuple) else function(value)
