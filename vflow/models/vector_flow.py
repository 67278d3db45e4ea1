"""What the densities on vectors share: one flow to a standard normal."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vflow.flows import Compose
from vflow.models.checks import require_count, require_float
from vflow.models.initialization import a_weight, data_dependent_init
from vflow.models.pretrained import Pretrained
from vflow.models.steps import draw, normal_log_prob


class VectorFlow(Pretrained, nn.Module):
    """A density on R^D, or, given a context, a conditional one.

    Log-densities are in nats. The latent is eps = f(x), standard normal under the model.
    """

    flow: Compose

    @property
    def dims(self) -> int:
        """Dimensions D of the variable."""
        return int(self.config.dims)

    @property
    def context_dims(self) -> int:
        """Dimensions of what the density is conditioned on; 0 for an unconditional one."""
        return int(getattr(self.config, "context_dims", 0))

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
        eps = temperature * draw((n, self.dims), self._parameter, generator)
        return self.decode(eps, context)[0]

    def initialize(self, x: Tensor, context: Tensor | None = None) -> None:
        """Data-dependent initialisation of every ActNorm from x [B, D], B at least 2."""
        self._require("x", x, context)
        if len(x) < 2:
            raise ValueError("x must have at least 2 rows to initialise from, got 1")
        data_dependent_init(self, lambda: self.flow(x, context))

    @property
    def _parameter(self) -> Tensor:
        return a_weight(self)

    def _require(self, name: str, value: Tensor, context: Tensor | None) -> None:
        require_float(name, value, (self.dims,), like=self._parameter)
        if (context is None) != (self.context_dims == 0):
            rule = "None" if context is not None else f"[B, {self.context_dims}]"
            raise ValueError(f"context must be {rule}, got {type(context).__name__}")
        if context is not None:
            shape = (self.context_dims,)
            require_float("context", context, shape, like=self._parameter, batch=value.shape[0])
