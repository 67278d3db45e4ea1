"""Whole pixel values under a density of continuous ones (VFlow, Chen et al., 2020, Eq. 7)."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from vflow.densities.base import Density
from vflow.densities.bases import Base
from vflow.densities.conditional import ConditionalDensity
from vflow.flows import Flow, Preprocess, Shape, Shapes


class Dequantized(Density):
    """A bound on log P(pixels): u ~ r(u|pixels), then the density of what is made of pixels + u.

    Args:
        density: Of preprocessed values.
        dequantizer: r(u|x), which gives (u, log r(u|x)) for (pixels, eps).
        preprocess: From [0, 256) to the density's values; the logit if None.
    """

    def __init__(
        self,
        density: Density,
        dequantizer: ConditionalDensity,
        preprocess: Flow | None = None,
    ) -> None:
        super().__init__()
        self.preprocess = Preprocess() if preprocess is None else preprocess
        self.dequantizer = dequantizer
        self.density = density

    @property
    def shape(self) -> Shape:  # type: ignore[override]
        """Shape of an image, [H, W, C]."""
        assert self.density.shape is not None
        return self.density.shape

    @property
    def dims(self) -> int:
        """Dimensions D of the data; extra ones do not count."""
        return math.prod(self.shape)

    def noise_shapes(self) -> dict[str, Shape]:
        """The noise eps_u of r(u|x), then the density's."""
        return {"eps_u": self.shape, **self.density.noise_shapes()}

    def noise_base(self, name: str) -> Base:
        """What r(u|x) says, or the density."""
        return self.dequantizer.base if name == "eps_u" else self.density.noise_base(name)

    def estimate_shapes(self) -> dict[str, Shape]:
        """The density's."""
        return self.density.estimate_shapes()

    @property
    def latent_shapes(self) -> Shapes:
        """The density's."""
        return self.density.latent_shapes

    def encode(  # type: ignore[override]
        self, x: Tensor, *, eps_u: Tensor, features: Tensor | None = None, **noise: Tensor
    ) -> tuple[Any, Tensor]:
        """Pixels x [B, H, W, C] in 0..255 and noise -> the latent, the bound on log P(x) [B].

        What r(u|x) sees in x may be given, where x has been read before.
        """
        pixels = x.to(eps_u.dtype)
        u, log_r = self.dequantizer(pixels, eps_u, features)
        latent, bound = self.encode_values(pixels + u, **noise)
        return latent, bound - log_r

    def encode_values(self, x: Tensor, **noise: Tensor) -> tuple[Any, Tensor]:
        """Real x [B, H, W, C] in [0, 256) and noise -> latent, log p(x) or a bound on it [B]."""
        value, logdet = self.preprocess(x)
        latent, bound = self.density.encode(value, **noise)
        return latent, bound + logdet

    def decode(self, latent: Any) -> Tensor:
        """The pixels x + u [B, H, W, C] of a latent."""
        return self.preprocess.inverse(self.density.decode(latent))[0]

    def to_bits_per_dim(self, log_prob: Tensor) -> Tensor:
        """Nats an image -> bits a data dimension."""
        return log_prob / (-self.dims * math.log(2))
