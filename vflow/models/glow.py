"""Glow for vectors: affine couplings with an MLP, ActNorm, an invertible linear layer."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vflow.flows import ActNormConv1x1, AffineCoupling, ChannelSplit, Compose, Flow, Inverse
from vflow.models.checks import require_count, require_float
from vflow.models.config import require_int
from vflow.models.initialization import data_dependent_init
from vflow.models.pretrained import Pretrained
from vflow.models.steps import draw, normal_log_prob
from vflow.nets import MLP

LOG_SCALE_BOUND = 4.0


@dataclass(frozen=True, kw_only=True)
class GlowConfig:
    """Glow as in VFlow's toy study (Chen et al., 2020, Sec. 5)."""

    dims: int = 2
    """Dimensions D of the variable."""
    steps: int = 3
    """Steps, each an ActNorm, a linear layer and a coupling."""
    context_dims: int = 0
    """Dimensions of what the density is conditioned on; 0 for an unconditional one."""
    hidden: int = 50
    """Width of the couplings' networks."""
    layers: int = 2
    """Hidden layers of the couplings' networks."""

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ValueError: Naming the field, what it must be and what it is.
        """
        for name in ("dims", "steps", "hidden", "layers"):
            require_int(name, getattr(self, name), 1)
        require_int("context_dims", self.context_dims, 0)
        if self.dims == 1 and self.context_dims == 0:
            raise ValueError("dims must be at least 2 without a context, got 1")


class Glow(Pretrained, nn.Module):
    """A density on R^D, or, given a context, a conditional one: it serves as q(z|x) too.

    Log-densities are in nats. The latent is eps = f(x), standard normal under the model.
    """

    config_class = GlowConfig

    def __init__(self, config: GlowConfig) -> None:
        super().__init__()
        self.config = config
        kept = config.dims // 2
        flows: list[Flow] = []
        for _ in range(config.steps):
            net = MLP(
                kept + config.context_dims,
                2 * (config.dims - kept),
                hidden=config.hidden,
                layers=config.layers,
            )
            split = ChannelSplit(kept)
            # The linear layer of the next step mixes the halves, so that none need be swapped.
            flows += [
                ActNormConv1x1((config.dims,)),
                split,
                AffineCoupling(net, bound=LOG_SCALE_BOUND),
                Inverse(split),
            ]
        self.flow = Compose(flows)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """`log_prob`, under the name that DistributedDataParallel and torch.compile call."""
        eps, logdet = self.encode(x, context)
        return normal_log_prob(eps) + logdet

    def log_prob(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """log p(x | context), differentiable.

        Args:
            x: [B, D].
            context: [B, context_dims], or None for an unconditional density.

        Returns:
            [B], nats.

        Raises:
            ValueError: If an argument has the wrong type or shape.
        """
        return self.forward(x, context)

    def encode(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """x [B, D] -> eps [B, D], log|d eps / dx| [B] in nats."""
        self._require("x", x, context)
        return self.flow(x, context)

    def decode(self, eps: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """eps [B, D] -> x [B, D], log|dx / d eps| [B] in nats."""
        self._require("eps", eps, context)
        return self.flow.inverse(eps, context)

    def rsample(
        self, context: Tensor | None = None, eps: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """A differentiable sample and its log-density, as a q(z|x) needs.

        Args:
            context: [B, context_dims].
            eps: Noise [B, D].

        Returns:
            The sample [B, D] and log p(sample | context) [B] in nats.
        """
        if eps is None:
            if context is None:
                raise ValueError("eps must be given where there is no context, got None for both")
            eps = draw((len(context), self.config.dims), self._parameter, None)
        x, logdet = self.decode(eps, context)
        return x, normal_log_prob(eps) - logdet

    @torch.no_grad()
    def sample(
        self,
        n: int,
        temperature: float = 1.0,
        context: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draw n points, [n, D]; a context has n rows. The same seed gives the same points."""
        require_count("n", n)
        eps = temperature * draw((n, self.config.dims), self._parameter, generator)
        return self.decode(eps, context)[0]

    def initialize(self, x: Tensor, context: Tensor | None = None) -> None:
        """Data-dependent initialisation of every ActNorm from x [B, D], B at least 2."""
        self._require("x", x, context)
        if len(x) < 2:
            raise ValueError("x must have at least 2 rows to initialise from, got 1")
        data_dependent_init(self, lambda: self.flow(x, context))

    @property
    def _parameter(self) -> Tensor:
        return next(self.parameters())

    def _require(self, name: str, value: Tensor, context: Tensor | None) -> None:
        require_float(name, value, (self.config.dims,), like=self._parameter)
        if (context is None) != (self.config.context_dims == 0):
            rule = "None" if context is not None else f"[B, {self.config.context_dims}]"
            raise ValueError(f"context must be {rule}, got {type(context).__name__}")
        if context is not None:
            shape = (self.config.context_dims,)
            require_float("context", context, shape, like=self._parameter, batch=len(value))
