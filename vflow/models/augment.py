"""`vflow.augment`: extra dimensions for anybody's flow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from vflow.densities import Augmented, ConditionalDensity, Density, FlowDensity
from vflow.flows import Flow, Shape
from vflow.flows.adapters import adapt
from vflow.io.fields import plain, require_int
from vflow.models.builders import POSTERIORS


def augment(
    flow: Any,
    extra_dims: int,
    posterior: str | Any = "normal",
    *,
    shape: Shape | None = None,
    dim: int | None = None,
) -> Augmented:
    """A VFlow of anybody's flow (Chen et al., 2020): the flow models the data and z together.

    >>> import torch, vflow
    >>> from vflow.models import GlowConfig
    >>> flow = vflow.Glow(GlowConfig(dims=5)).flow  # of 2 dimensions of data and 3 extra ones
    >>> wide = vflow.augment(flow, extra_dims=3, posterior="vector-glow", shape=(2,))
    >>> wide.elbo(torch.randn(4, 2)).shape
    torch.Size([4])

    Args:
        flow: From (x, z) to the latent: one of our layers, a module of your own whose `forward`
            and `inverse` return (value, log-determinant [B]), or a transform or flow of zuko,
            normflows or nflows. It has D + Dz dimensions, or C + Dz channels. The latent is
            N(0, I), or as the base density says that a whole distribution brings along.
        extra_dims: Extra dimensions Dz of a vector, or channels of an image.
        posterior: q(z|x): "normal" (N(0, I) whatever x is), another kind by name or by its
            options ("vector-glow" for vectors, "flow" for images of our layers), or a module of
            your own that takes (x, eps), eps ~ N(0, I), to (z, log q(z|x) [B]).
        shape: Of x without the batch; needed for a posterior that is made here, and otherwise
            taken from the first x.
        dim: The dimension of [B, ...] along which z is joined to x: by default the last one for
            our layers, whose images are [B, H, W, C], and 1 for others', whose are [B, C, H, W].

    Returns:
        A density with `elbo`, `log_prob` (importance sampling), `sample`, `encode` and `decode`.

    Raises:
        ValueError: If the flow or the posterior is none of these, or the shape is missing.
    """
    extra_dims = plain(extra_dims)
    require_int("extra_dims", extra_dims, 1)
    if isinstance(flow, Density):
        density = flow
        if density.shape is None:
            raise ValueError("flow must be a density of known shape, got one without")
        ours = True
    else:
        adapted, base = adapt(flow)
        ours = isinstance(flow, Flow)
        density = FlowDensity(adapted, None, base)
    dim = (-1 if ours else 1) if dim is None else dim
    if shape is not None and not isinstance(flow, Density):
        joint = list(shape)
        axis = dim if dim < 0 else dim - 1
        if not -len(joint) <= axis < len(joint):
            raise ValueError(f"dim must be one of [B, ...] for shape {tuple(shape)}, got {dim}")
        joint[axis] += extra_dims
        density.see(tuple(joint))
    q = _posterior(posterior, extra_dims, shape, dim)
    return Augmented(density, q, extra_dims, dim)


class OwnPosterior(nn.Module):
    """A user's q(z|x)."""

    def __init__(self, module: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
        """x, eps ~ N(0, I) -> z like eps, log q(z|x) [B] in nats."""
        result = self.module(x, eps)
        rule = "posterior must return (z, log q(z|x) [B])"
        if not isinstance(result, tuple) or len(result) != 2:
            raise ValueError(f"{rule}, got {type(result).__name__}")
        z, log_q = result
        if z.shape != eps.shape or tuple(log_q.shape) != (x.shape[0],):
            raise ValueError(
                f"{rule} with z {tuple(eps.shape)}, got {tuple(z.shape)} and {tuple(log_q.shape)}"
            )
        return z, log_q


def _posterior(posterior: Any, extra: int, shape: Shape | None, dim: int) -> Any:
    if isinstance(posterior, ConditionalDensity):
        return posterior
    if isinstance(posterior, str):
        posterior = POSTERIORS[posterior]()
    if not hasattr(posterior, "kind"):
        if not callable(posterior):
            raise ValueError(
                f"posterior must be {', '.join(POSTERIORS.names)}, the options of one of these, or "
                f"a module of (x, eps), got {type(posterior).__name__}"
            )
        return OwnPosterior(posterior)
    POSTERIORS.require("posterior", posterior)
    if posterior.kind == "normal":
        return ConditionalDensity()
    if shape is None:
        raise ValueError(f"shape must be given for posterior {posterior.kind!r}, got None")
    if len(shape) > 1 and dim != -1:
        raise ValueError(
            f"posterior {posterior.kind!r} must have images [H, W, C], z joined along dim -1, got "
            f"dim {dim}; give a module of your own"
        )
    return posterior.build((*shape[:-1], extra), shape[-1], None)
