"""A trained flow as the start of a VFlow (Chen et al., 2020, Theorem 1 and Appendix A).

Every layer of D dimensions has a twin of D + Dz dimensions that treats the D as before and leaves
the others alone. With z ~ N(0, I) whatever x is, the evidence lower bound is then log p(x) itself,
for every x and every noise.

The halves of the wider couplings hold z as well, so that the first linear layer also sorts: the
flow's first half, some of z, the flow's second half, the rest of z.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vflow.flows import ActNormConv1x1, AffineCoupling, ResidualBlock
from vflow.models.config import require_int
from vflow.models.glow import NEGATIVE_SLOPE, Glow
from vflow.models.residual_flow import COEFFICIENT, ResidualFlow
from vflow.models.vector_vflow import VectorVFlow, VectorVFlowConfig


@torch.no_grad()
def embed(flow: Glow | ResidualFlow, extra_dims: int, posterior_steps: int = 0) -> VectorVFlow:
    """See `vflow.VFlow.from_flow`."""
    require_int("extra_dims", extra_dims, 1)
    require_int("posterior_steps", posterior_steps, 0)
    if flow.context_dims:
        raise ValueError(f"flow must be unconditional, got context_dims {flow.context_dims}")
    config = flow.config
    model = VectorVFlow(
        VectorVFlowConfig(
            dims=config.dims,
            extra_dims=extra_dims,
            steps=config.steps,
            posterior_steps=posterior_steps,
            flow="glow" if isinstance(flow, Glow) else "residual",
            hidden=config.hidden,
            layers=config.layers,
            negative_slope=getattr(config, "negative_slope", NEGATIVE_SLOPE),
            coefficient=getattr(config, "coefficient", COEFFICIENT),
        )
    ).to(next(flow.parameters()))
    places = _places(flow, extra_dims)
    for index, (old, new) in enumerate(zip(flow.flow.flows, model.flow.flows, strict=True)):
        if isinstance(old, ActNormConv1x1):
            assert isinstance(new, ActNormConv1x1)
            _embed_linear(old, new, places, sorts=index == 0)
        elif isinstance(old, AffineCoupling | ResidualBlock):
            assert isinstance(new, AffineCoupling | ResidualBlock)
            _embed_net(old.net, new.net)
    if model.posterior is not None:
        for layer in model.posterior.flows:  # its couplings' networks start at zero already
            if isinstance(layer, ActNormConv1x1):
                nn.init.eye_(layer.weight)
    return model.train(flow.training)


def _places(flow: Glow | ResidualFlow, extra_dims: int) -> Tensor:
    """Where in the wider flow each of the D + Dz dimensions stands after the first linear layer."""
    dims, total = flow.dims, flow.dims + extra_dims
    kept = dims // 2 if isinstance(flow, Glow) else dims
    start = total // 2 if isinstance(flow, Glow) else dims
    ours = [*range(kept), *range(start, start + dims - kept)]
    return torch.tensor(ours + [place for place in range(total) if place not in ours])


def _embed_linear(old: ActNormConv1x1, new: ActNormConv1x1, places: Tensor, sorts: bool) -> None:
    total, dims = len(places), len(old.scale)
    before = torch.arange(total) if sorts else places
    new.scale.fill_(1)
    new.bias.zero_()
    new.scale[before[:dims]] = old.scale
    new.bias[before[:dims]] = old.bias
    weight = torch.eye(total).to(old.weight)
    weight[:dims, :dims] = old.weight
    new.weight.zero_()
    new.weight[before.unsqueeze(1), places] = weight


def _embed_net(old: nn.Module, new: nn.Module) -> None:
    """Zero columns for z among the inputs, zero rows among the outputs: no norm changes."""
    for source, target in zip(_linears(old), _linears(new), strict=True):
        target.weight.zero_()
        target.bias.zero_()
        rows, columns = source.weight.shape
        target.weight[:rows, :columns] = source.weight
        target.bias[:rows] = source.bias


def _linears(net: nn.Module) -> list[nn.Linear]:
    return [layer for layer in net.modules() if isinstance(layer, nn.Linear)]
