"""Glow for vectors: affine couplings with an MLP, ActNorm, an invertible linear layer."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from vflow.densities import Normal, normal_log_prob
from vflow.io.fields import require_int, require_slope, take_plain_numbers
from vflow.models.builders.vectors import NEGATIVE_SLOPE
from vflow.models.tree import ModelConfig, from_flat
from vflow.models.vector_flow import VectorFlow


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
    negative_slope: float = NEGATIVE_SLOPE
    """Of the networks' leaky ReLU; 0 for ReLU, whose units die in long training."""

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ValueError: Naming the field, what it must be and what it is.
        """
        take_plain_numbers(self)
        for name in ("dims", "steps", "hidden", "layers"):
            require_int(name, getattr(self, name), 1)
        require_int("context_dims", self.context_dims, 0)
        require_slope("negative_slope", self.negative_slope)
        if self.dims == 1 and self.context_dims == 0:
            raise ValueError("dims must be at least 2 without a context, got 1")

    def to_model_config(self) -> ModelConfig:
        """The config as a tree."""
        return from_flat("Glow", self)


class Glow(VectorFlow):
    """Glow on R^D, or, given a context, a conditional one: it serves as q(z|x) too."""

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
            eps = Normal().draw((len(context), self.dims), self._parameter)
        x, logdet = self.decode(eps, context)
        return x, normal_log_prob(eps) - logdet
