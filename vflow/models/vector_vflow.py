"""VFlow for vectors: a flow of the data and extra dimensions together."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from vflow.models.checks import require_count, require_float
from vflow.models.config import require_choice, require_int, require_slope
from vflow.models.glow import NEGATIVE_SLOPE, glow_flow
from vflow.models.initialization import a_weight, data_dependent_init
from vflow.models.pretrained import Pretrained
from vflow.models.residual_flow import COEFFICIENT, require_coefficient, residual_flow
from vflow.models.steps import draw, normal_log_prob

FLOWS = ("glow", "residual")
ROWS_AT_ONCE = 1 << 14


@dataclass(frozen=True, kw_only=True)
class VectorVFlowConfig:
    """VFlow as in the toy study (Chen et al., 2020, Sec. 5)."""

    dims: int = 2
    """Dimensions Dx of the data."""
    extra_dims: int = 8
    """Extra dimensions Dz."""
    steps: int = 2
    """Steps of p(x, z)."""
    posterior_steps: int = 1
    """Steps of q(z|x), each an ActNorm, a linear layer and a coupling; 0 for q = N(0, I)."""
    flow: str = "glow"
    """What p(x, z) is made of: "glow" or "residual" steps."""
    hidden: int = 50
    """Width of the networks."""
    layers: int = 2
    """Hidden layers of the networks."""
    negative_slope: float = field(default=NEGATIVE_SLOPE, metadata={"before": 0.0})
    """Of the couplings' leaky ReLU; 0 for ReLU, whose units die in long training."""
    coefficient: float = COEFFICIENT
    """Largest Lipschitz constant of a residual block's network, in (0, 1)."""

    @property
    def total_dims(self) -> int:
        """Dimensions D = Dx + Dz of the flow."""
        return self.dims + self.extra_dims

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ValueError: Naming the field, what it must be and what it is.
        """
        for name in ("dims", "extra_dims", "steps", "hidden", "layers"):
            require_int(name, getattr(self, name), 1)
        require_int("posterior_steps", self.posterior_steps, 0)
        require_choice("flow", self.flow, FLOWS)
        require_slope("negative_slope", self.negative_slope)
        require_coefficient(self.coefficient)


class VectorVFlow(Pretrained, nn.Module):
    """p(x, z) by one flow, q(z|x) by another or N(0, I), an evidence lower bound on log p(x).

    q runs from noise to z, so that sampling with its log-density is one differentiable pass. With
    one extra dimension a step of it is a Gaussian layer: its mean and scale are functions of x.
    Log-densities are in nats.
    """

    config_class = VectorVFlowConfig
    config: VectorVFlowConfig

    def __init__(self, config: VectorVFlowConfig) -> None:
        super().__init__()
        self.config = config
        size = {"hidden": config.hidden, "layers": config.layers}
        slope = config.negative_slope
        if config.flow == "glow":
            self.flow = glow_flow(config.total_dims, config.steps, negative_slope=slope, **size)
        else:
            self.flow = residual_flow(
                config.total_dims, config.steps, coefficient=config.coefficient, **size
            )
        self.posterior = (
            glow_flow(
                config.extra_dims,
                config.posterior_steps,
                context_dims=config.dims,
                negative_slope=slope,
                **size,
            )
            if config.posterior_steps
            else None
        )

    def forward(
        self, x: Tensor, eps_z: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """`elbo`, under the name that DistributedDataParallel and torch.compile call."""
        return self.encode(x, eps_z, generator)[1]

    def elbo(
        self, x: Tensor, eps_z: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """One-sample evidence lower bound on log p(x) (Chen et al., 2020, Eq. 3), differentiable.

        Args:
            x: [B, Dx].
            eps_z: Noise of q(z|x), [B, Dz]; drawn if None.
            generator: Where noise is drawn from; the global one if None.

        Returns:
            [B], nats.

        Raises:
            ValueError: If an argument has the wrong type or shape.
        """
        return self.forward(x, eps_z, generator)

    @torch.no_grad()
    def log_prob(
        self,
        x: Tensor,
        samples: int = 1,
        chunk: int | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """log p(x) by importance sampling (Chen et al., 2020, Eq. 5).

        A lower bound in expectation that rises with `samples`; with one it is the ELBO.

        Args:
            x: [B, Dx].
            samples: Number S of importance samples a point.
            chunk: Points evaluated at once, with all their samples, which bounds the memory; by
                default as many as make 16,384 rows.
            generator: Where noise is drawn from; the global one if None.

        Returns:
            [B], nats; no gradient.

        Raises:
            ValueError: If an argument has the wrong type, shape or range.
        """
        self._require("x", x, self.config.dims)
        require_count("samples", samples)
        chunk = max(1, ROWS_AT_ONCE // samples) if chunk is None else chunk
        require_count("chunk", chunk)
        parts = []
        for points in x.split(chunk):
            rows = points.repeat_interleave(samples, 0)
            terms = self.elbo(rows, generator=generator).view(len(points), samples)
            parts.append(terms.logsumexp(1) - math.log(samples))
        return torch.cat(parts)

    def encode(
        self, x: Tensor, eps_z: Tensor | None = None, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """x [B, Dx] -> the latent [B, D] under drawn or given noise, the ELBO [B] in nats."""
        self._require("x", x, self.config.dims)
        if eps_z is None:
            eps_z = draw((x.shape[0], self.config.extra_dims), self._parameter, generator)
        self._require("eps_z", eps_z, self.config.extra_dims, x.shape[0])
        z, log_q = self.sample_posterior(x, eps_z)
        latent, logdet = self.flow(torch.cat([x, z], dim=-1))
        return latent, normal_log_prob(latent) + logdet - log_q

    def sample_posterior(self, x: Tensor, eps_z: Tensor) -> tuple[Tensor, Tensor]:
        """x [B, Dx], eps_z [B, Dz] ~ N(0, I) -> z [B, Dz], log q(z|x) [B] in nats."""
        if self.posterior is None:
            return eps_z, normal_log_prob(eps_z)
        z, logdet = self.posterior(eps_z, x)
        return z, normal_log_prob(eps_z) - logdet

    @torch.no_grad()
    def decode(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        """Latent [B, D] -> x [B, Dx], z [B, Dz]; no gradient."""
        self._require("latent", latent, self.config.total_dims)
        xz, _ = self.flow.inverse(latent)
        return xz[:, : self.config.dims], xz[:, self.config.dims :]

    @torch.no_grad()
    def sample(
        self, n: int, temperature: float = 1.0, generator: torch.Generator | None = None
    ) -> Tensor:
        """Draw n points of p(x), [n, Dx]. The same seed gives the same points."""
        require_count("n", n)
        latent = temperature * draw((n, self.config.total_dims), self._parameter, generator)
        return self.decode(latent)[0]

    def initialize(self, x: Tensor, generator: torch.Generator | None = None) -> None:
        """Data-dependent initialisation of every ActNorm from x [B, Dx], B at least 2."""
        self._require("x", x, self.config.dims)
        if len(x) < 2:
            raise ValueError("x must have at least 2 rows to initialise from, got 1")
        data_dependent_init(self, lambda: self.elbo(x, generator=generator))

    @property
    def _parameter(self) -> Tensor:
        return a_weight(self)

    def _require(self, name: str, value: Tensor, dims: int, batch: int | None = None) -> None:
        require_float(name, value, (dims,), like=self._parameter, batch=batch)
