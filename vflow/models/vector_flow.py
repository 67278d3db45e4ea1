"""What the densities on vectors share: one flow to a standard normal."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from vflow.densities import FlowDensity, Normal, normal_log_prob
from vflow.flows import Flow
from vflow.models.checks import require_count, require_float, require_temperature
from vflow.models.initialization import a_weight, initialize_together
from vflow.models.pretrained import Pretrained, take_old_names
from vflow.models.spread import vectors_with_spread
from vflow.models.tree import as_model_config, build


class VectorFlow(Pretrained, nn.Module):
    """A density on R^D, or, given a context, a conditional one.

    Log-densities are in nats. The latent is eps = f(x), standard normal under the model.

    Args:
        config: A `ModelConfig` of vectors without extra dimensions, or a flat one.
    """

    density: FlowDensity

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = as_model_config(config)
        self.register_load_state_dict_pre_hook(take_old_names)
        if self.config.is_image or self.config.augment is not None:
            raise ValueError("config must be of vectors without extra dimensions")
        density, _ = build(self.config)
        assert isinstance(density, FlowDensity)
        self.density = density

    @property
    def flow(self) -> Flow:
        """The transform f."""
        return self.density.flow

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
        n, temperature = require_count("n", n), require_temperature(temperature)
        eps = temperature * Normal().draw((n, self.dims), self._parameter, generator)
        return self.decode(eps, context)[0]

    def widen(self, extra_dims: int, posterior_steps: int = 0, posterior: Any = "normal") -> Any:
        """A VFlow of this model, trained or not, whose bound is this model's (Theorem 1, App. A).

        See `vflow.VFlow.from_flow`, whose arguments, result and errors it shares.
        """
        from vflow.models.widening import widen  # which makes models

        return widen(self, extra_dims, posterior_steps, posterior)

    def initialize(
        self, x: Tensor, context: Tensor | None = None, synchronize: bool = True
    ) -> None:
        """Data-dependent initialisation of every ActNorm from x [B, D], B at least 2.

        Under `torch.distributed` every process has to call it, and all take the parameters that
        rank 0 finds from its own x, unless `synchronize` is False.
        """
        self._require("x", x, context)
        too_few = None
        if x.shape[0] < 2:
            too_few = "x must have at least 2 rows to initialise from, got 1"
        initialize_together(
            self, lambda: self.flow(vectors_with_spread(x), context), too_few, synchronize
        )

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
            require_float("context", context, shape, like=self._parameter, batch=len(value))
