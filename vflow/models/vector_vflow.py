"""VFlow for vectors: a flow of the data and extra dimensions together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vflow.densities import Augmented, ConditionalDensity, log_mean_exp, normal_log_prob
from vflow.flows import Flow
from vflow.flows.residual import estimate
from vflow.io.fields import require_choice, require_int, require_slope, take_plain_numbers
from vflow.models.builders.vectors import COEFFICIENT, NEGATIVE_SLOPE, require_coefficient
from vflow.models.checks import require_count, require_float, require_temperature
from vflow.models.initialization import a_weight, initialize_together
from vflow.models.pretrained import Pretrained, take_old_names
from vflow.models.spread import vectors_with_spread
from vflow.models.tree import ModelConfig, as_model_config, build, from_flat

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
    negative_slope: float = NEGATIVE_SLOPE
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
        take_plain_numbers(self)
        for name in ("dims", "extra_dims", "steps", "hidden", "layers"):
            require_int(name, getattr(self, name), 1)
        require_int("posterior_steps", self.posterior_steps, 0)
        require_choice("flow", self.flow, FLOWS)
        require_slope("negative_slope", self.negative_slope)
        require_coefficient(self.coefficient)

    def to_model_config(self) -> ModelConfig:
        """The config as a tree."""
        return from_flat("VectorVFlow", self)


class VectorVFlow(Pretrained, nn.Module):
    """p(x, z) by one flow, q(z|x) by another or N(0, I), an evidence lower bound on log p(x).

    q runs from noise to z, so that sampling with its log-density is one differentiable pass. With
    one extra dimension a step of it is a Gaussian layer: its mean and scale are functions of x.
    Log-densities are in nats.

    Args:
        config: A `ModelConfig` of vectors with extra dimensions, or a `VectorVFlowConfig`.
    """

    density: Augmented

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = as_model_config(config)
        self.register_load_state_dict_pre_hook(take_old_names)
        if self.config.is_image or self.config.augment is None:
            raise ValueError("config must be of vectors with extra dimensions")
        density, _ = build(self.config)
        assert isinstance(density, Augmented)
        self.density = density

    @property
    def flow(self) -> Flow:
        """The transform of x and z together."""
        density: Any = self.density.density
        return density.flow

    @property
    def posterior(self) -> ConditionalDensity:
        """q(z|x)."""
        return self.density.posterior

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

    def estimate_elbo(
        self, x: Tensor, eps_z: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """`elbo` with random, unbiased estimates of the log-determinants of residual blocks.

        A loss for many dimensions, where the exact one is dear; no lower bound of a single point,
        and not for importance sampling, which it would bias upwards.

        Args:
            x: [B, Dx].
            eps_z: Noise of q(z|x), [B, Dz]; drawn if None.
            generator: Where all noise is drawn from; the global one if None.

        Returns:
            [B], nats; for flow="glow" the ELBO.

        Raises:
            ValueError: If an argument has the wrong type or shape.
        """
        z, log_q = self.posterior(x, self._noise(x, eps_z, generator))
        latent, logdet = estimate(self.flow, torch.cat([x, z], dim=-1), generator)
        return normal_log_prob(latent) + logdet - log_q

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
        samples = require_count("samples", samples)
        chunk = require_count("chunk", max(1, ROWS_AT_ONCE // samples) if chunk is None else chunk)
        parts = [
            log_mean_exp(lambda rows, _: self.elbo(rows, generator=generator), points, samples)[1]
            for points in x.split(chunk)
        ]
        return torch.cat(parts).to(x.dtype)

    def encode(
        self, x: Tensor, eps_z: Tensor | None = None, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """x [B, Dx] -> the latent [B, D] under drawn or given noise, the ELBO [B] in nats."""
        return self.density.encode(x, eps_z=self._noise(x, eps_z, generator))

    def sample_posterior(self, x: Tensor, eps_z: Tensor) -> tuple[Tensor, Tensor]:
        """x [B, Dx], eps_z [B, Dz] ~ N(0, I) -> z [B, Dz], log q(z|x) [B] in nats."""
        return self.posterior(x, eps_z)

    @torch.no_grad()
    def decode(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        """Latent [B, D] -> x [B, Dx], z [B, Dz]; no gradient."""
        self._require("latent", latent, self.config.total_dims)
        return self.density.decode_both(latent)

    @torch.no_grad()
    def sample(
        self, n: int, temperature: float = 1.0, generator: torch.Generator | None = None
    ) -> Tensor:
        """Draw n points of p(x), [n, Dx]. The same seed gives the same points."""
        n, temperature = require_count("n", n), require_temperature(temperature)
        return self.decode(self.density.draw_latent(n, temperature, generator))[0]

    def initialize(
        self, x: Tensor, generator: torch.Generator | None = None, synchronize: bool = True
    ) -> None:
        """Data-dependent initialisation of every ActNorm from x [B, Dx], B at least 2.

        Under `torch.distributed` every process has to call it, and all take the parameters that
        rank 0 finds from its own x, unless `synchronize` is False.
        """
        self._require("x", x, self.config.dims)
        too_few = None
        if x.shape[0] < 2:
            too_few = "x must have at least 2 rows to initialise from, got 1"
        initialize_together(
            self,
            lambda: self.elbo(vectors_with_spread(x), generator=generator),
            too_few,
            synchronize,
        )

    def _noise(self, x: Tensor, eps_z: Tensor | None, generator: torch.Generator | None) -> Tensor:
        """The noise given, checked, or drawn; x is checked too."""
        self._require("x", x, self.config.dims)
        if eps_z is None:
            eps_z = self.density.draw_noise(x.shape[0], generator, like=self._parameter)["eps_z"]
        self._require("eps_z", eps_z, self.config.extra_dims, x.shape[0])
        return eps_z

    @property
    def _parameter(self) -> Tensor:
        return a_weight(self)

    def _require(self, name: str, value: Tensor, dims: int, batch: int | None = None) -> None:
        require_float(name, value, (dims,), like=self._parameter, batch=batch)
