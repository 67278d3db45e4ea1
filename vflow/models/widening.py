"""A trained flow as the start of a VFlow (Chen et al., 2020, Theorem 1 and Appendix A).

With z ~ N(0, I) whatever x is, and a flow that treats x as before and leaves z alone, the evidence
lower bound is log p(x) itself, for every x and every noise.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import nn

from vflow.flows import ActNormConv1x1, CannotEmbed, Places
from vflow.flows.embedding import require_rest
from vflow.io.fields import plain, require_int
from vflow.models.builders import (
    POSTERIORS,
    GaussianPosteriorSpec,
    NormalPosteriorSpec,
    VectorGlowPosteriorSpec,
)
from vflow.models.tree import AugmentConfig, ModelConfig

STARTS_NORMAL: dict[bool, tuple[Any, ...]] = {
    True: (NormalPosteriorSpec, GaussianPosteriorSpec),
    False: (NormalPosteriorSpec, VectorGlowPosteriorSpec),
}
"""Posteriors that are N(0, I) before they are trained, for images and for vectors."""


@torch.no_grad()
def widen(model: Any, extra_dims: int, posterior_steps: int = 0, posterior: Any = "normal") -> Any:
    """See `vflow.VFlow.from_flow`."""
    config = getattr(model, "config", None)
    if not isinstance(config, ModelConfig):
        raise ValueError(f"flow must be a model of vflow, got {type(model).__name__}")
    name = type(model).__name__
    if config.augment is not None:
        raise ValueError(f"flow must be a model without extra dimensions, got a {name}")
    extra_dims = plain(extra_dims)
    require_int("extra_dims", extra_dims, 1)
    require_int("posterior_steps", posterior_steps, 0)
    context_dims = getattr(config.flow, "context_dims", 0)
    if context_dims:
        raise ValueError(f"flow must be unconditional, got context_dims {context_dims}")
    if isinstance(posterior, str):
        posterior = POSTERIORS[posterior]()
    if posterior_steps:
        posterior = _vector_posterior(config, posterior_steps)
    wanted = STARTS_NORMAL[config.is_image]
    if not isinstance(posterior, wanted):
        names = " or ".join(repr(kind.kind) for kind in wanted)
        raise ValueError(
            f"posterior must start as N(0, I), as {names} does, got "
            f"{getattr(posterior, 'kind', posterior)!r}"
        )
    augment = AugmentConfig(channels=extra_dims, posterior=posterior)

    from vflow.models.classes import make_model  # which imports this file

    parameter = next(model.parameters())
    wide = make_model(dataclasses.replace(config, augment=augment)).to(parameter)
    channels = config.inner_shape[-1]
    try:
        places = Places(tuple(range(channels)), channels + extra_dims)
        require_rest(wide.flow.embed(model.flow, places))
    except CannotEmbed as error:
        raise ValueError(f"{name} must have layers that can leave z alone, but {error}") from error
    if config.is_image:
        wide.dequantizer.load_state_dict(model.dequantizer.state_dict())
        wide.mark_initialized()
    if isinstance(posterior, VectorGlowPosteriorSpec):
        for layer in wide.posterior.flow.flows:  # its couplings' networks start at zero already
            if isinstance(layer, ActNormConv1x1):
                nn.init.eye_(layer.weight)
    return wide.train(model.training)


def _vector_posterior(config: ModelConfig, steps: int) -> VectorGlowPosteriorSpec:
    if config.is_image:
        raise ValueError(f"posterior_steps must be 0 for images, got {steps}")
    same = {
        name: getattr(config.flow, name)
        for name in ("hidden", "layers", "negative_slope")
        if hasattr(config.flow, name)
    }
    return VectorGlowPosteriorSpec(steps=steps, **same)
