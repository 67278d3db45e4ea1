"""Extra dimensions for any density (VFlow, Chen et al., 2020, Sec. 3)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vflow.densities.base import Density
from vflow.densities.bases import Base, Normal
from vflow.densities.conditional import ConditionalDensity
from vflow.flows import Shape, Shapes


class Augmented(Density):
    """p(x, z) by a density of both, q(z|x), and the evidence lower bound on log p(x).

    Args:
        density: Of x and z joined along `dim`.
        posterior: q(z|x), which gives (z, log q(z|x)) for (x, eps).
        extra: Extra channels (or dimensions of a vector) Dz.
        dim: The dimension, batch included, along which z is joined to x.
        posterior_first: Whether q's parameters come before p's, as in the authors' image models.
    """

    posterior: ConditionalDensity
    density: Density

    def __init__(
        self,
        density: Density,
        posterior: ConditionalDensity,
        extra: int,
        dim: int = -1,
        posterior_first: bool = False,
    ) -> None:
        super().__init__()
        parts = {"density": density, "posterior": posterior}
        for name in sorted(parts, reverse=posterior_first):
            self.add_module(name, parts[name])
        self.extra = extra
        self.dim = dim

    @property
    def shape(self) -> Shape | None:  # type: ignore[override]
        """Shape of x, without the batch."""
        joint = self.density.shape
        return None if joint is None else self._with_channels(joint, -self.extra)

    def see(self, shape: Shape) -> None:
        """Take the shape of the first x, where it was not given."""
        if self.density.shape is None:
            self.density.see(self._with_channels(shape, self.extra))

    def noise_shapes(self) -> dict[str, Shape]:
        """The noise eps_z of q(z|x)."""
        if self.density.shape is None:
            raise ValueError("shape must be given, or an x evaluated, before noise is drawn")
        shape = list(self.density.shape)
        shape[self._axis] = self.extra
        return {**self.density.noise_shapes(), "eps_z": tuple(shape)}

    def noise_base(self, name: str) -> Base:
        """N(0, I), or what the posterior says."""
        if name != "eps_z":
            return self.density.noise_base(name)
        return getattr(self.posterior, "base", Normal())

    def estimate_shapes(self) -> dict[str, Shape]:
        """The density's."""
        return self.density.estimate_shapes()

    @property
    def latent_shapes(self) -> Shapes:
        """The latent of x and z together."""
        return self.density.latent_shapes

    def encode(  # type: ignore[override]
        self, x: Tensor, *, eps_z: Tensor, **noise: Tensor
    ) -> tuple[Any, Tensor]:
        """x [B, *shape] and noise -> the latent of (x, z), the bound on log p(x) [B] in nats."""
        z, log_q = self.posterior(x, eps_z)
        latent, log_p = self.density.encode(torch.cat([x, z], dim=self.dim), **noise)
        return latent, log_p - log_q

    def decode(self, latent: Any) -> Tensor:
        """The x [B, *shape] of a latent, without its z."""
        return self.decode_both(latent)[0]

    def decode_both(self, latent: Any) -> tuple[Tensor, Tensor]:
        """The x [B, *shape] and the z of a latent."""
        joint = self.density.decode(latent)
        channels = joint.shape[self.dim] - self.extra
        x, z = joint.split([channels, self.extra], dim=self.dim)
        return x, z

    @property
    def _axis(self) -> int:
        return self.dim if self.dim < 0 else self.dim - 1

    def _with_channels(self, shape: Shape, change: int) -> Shape:
        changed = list(shape)
        changed[self._axis] += change
        return tuple(changed)
