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

from vflow.flows import (
    ActNormConv1x1,
    ChannelSplit,
    CheckerboardSplit,
    Compose,
    Flow,
    GaussianAffineCoupling,
    Inverse,
    MixLogisticCoupling,
    PerHalf,
    Preprocess,
    Sigmoid,
    SpaceToDepth,
    TupleFlip,
)
from vflow.flows.elementwise import PIXEL_VALUES
from vflow.models import ImageFlow, VFlow
from vflow.models.dequantize import UniformDequantizer
from vflow.models.posterior import NormalPosterior
from vflow.nets import ContextNetwork
from vflow.ops import mixlogistic

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
    """
    channels, height, width = model.data_shape
    noise = model.draw_noise(len(images), generator)
    for name, value in (("eps_u", eps_u), ("eps_z", eps_z)):
        if value is not None:
            noise[name] = value
    model.elbo(images, generator=None, **noise)  # checks the arguments
    eps_u, eps_z = (
        None if name not in noise else noise[name].permute(0, 2, 3, 1).contiguous()
        for name in ("eps_u", "eps_z")
    )
    assert eps_u is not None
    pixels = images.permute(0, 2, 3, 1).to(eps_u.dtype)
    nats = torch.zeros(len(images), height * width, dtype=torch.float64, device=model.device)

    def add(terms: Tensor, places: Tensor) -> None:
        flat = places.flatten().to(nats.device)
        nats.index_add_(1, flat, terms.flatten(1).double())

    def subtract(terms: Tensor, places: Tensor) -> None:
        add(-terms, places)

    places = torch.arange(height * width).view(height, width, 1)
    at_data = places.expand(height, width, channels)
    if isinstance(model.dequantizer, UniformDequantizer):
        u = eps_u
    else:
        features = model.dequantizer.context(pixels / PIXEL_VALUES - 0.5)
        u = _conditional(model.dequantizer.conditional, eps_u, at_data, features, subtract)
    x, _ = _follow(model.preprocess, pixels + u, at_data, None, add)
    h, where = x, at_data
    if isinstance(model, VFlow):
        assert eps_z is not None
        at_z = places.expand(height, width, eps_z.shape[-1])
        if isinstance(model.posterior, NormalPosterior):
            z = eps_z
            subtract(_normal_terms(eps_z), at_z)
        else:
            network = model.posterior.context or model.dequantizer.context
            assert isinstance(network, ContextNetwork)
            z = _conditional(model.posterior.conditional, eps_z, at_z, network(x), subtract)
        h, where = torch.cat([x, z], -1), torch.cat([at_data, at_z], -1)
    latent, where = _follow(model.flow, h, where, None, add)
    add(_normal_terms(latent), where)
    return (-nats / math.log(2)).view(-1, height, width)


def _conditional(
    conditional: Any, eps: Tensor, places: Tensor, features: Tensor, add: Add
) -> Tensor:
    """The variable of a conditional flow; adds the terms of its log-density."""
    add(_normal_terms(eps), places)
    value, _ = _follow(
        conditional.flow, eps, places, features, lambda terms, where: add(-terms, where)
    )
    return value


def _normal_terms(eps: Tensor) -> Tensor:
    return -0.5 * (eps.square() + math.log(2 * math.pi))


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
def _(flow: MixLogisticCoupling, x: Any, places: Places, context: Tensor | None, add: Add) -> Any:
    (x1, x2), width = x, 2 + 3 * flow.components
    params = flow.net(x1, context).reshape(-1, 1, 1, 1, width)
    y2, terms = mixlogistic(x2.reshape(-1, 1, 1, 1), params, flow.squash)
    add(terms.view(x2.shape), places[1])
    return (x1, y2.view(x2.shape)), places


@_follow.register
def _(
    flow: GaussianAffineCoupling, x: Any, places: Places, context: Tensor | None, add: Add
) -> Any:
    y, _ = flow(x, context)
    _, sigma = flow._mean_and_sigma(x[0], context)
    add(-sigma.log(), places[1])
    return y, places


def _map(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    return tuple(map(function, value)) if isinstance(value, tuple) else function(value)
