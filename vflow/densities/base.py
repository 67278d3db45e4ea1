"""A density by change of variables: a transform and a base density."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from vflow.densities.bases import Base, Normal, normal_log_prob
from vflow.densities.importance import log_mean_exp
from vflow.densities.modes import evaluating
from vflow.flows import Flow, ImageResidualBlock, Shape, Shapes, no_logdet

ROWS_AT_ONCE = 1 << 14


def tensors_of(value: Any) -> tuple[Tensor, ...]:
    """A latent's tensors: itself, or those it has several of."""
    return value if isinstance(value, tuple) else (value,)


class Density(nn.Module):
    """A density of x whose logarithm, or a bound on it, is one pass.

    `encode` and `decode` are the subclass's. Noise has names, which are `encode`'s keyword
    arguments; a density without any is exact.
    """

    shape: Shape | None
    """Of x, without the batch; None until the first x, if it was not given."""

    def see(self, shape: Shape) -> None:
        """Take the shape of the first x, where it was not given."""

    def noise_shapes(self) -> dict[str, Shape]:
        """The noise that `encode` takes, by name: shapes without the batch."""
        return {}

    def estimate_shapes(self) -> dict[str, Shape]:
        """More noise that `encode` takes, standard normal, by name: shapes without the batch.

        Given it, `encode` has an unbiased estimate of what would be dear, to train by; without it,
        what it is said to have. Empty where nothing is dear.
        """
        return {}

    @property
    def latent_shapes(self) -> Shapes:
        """Shape of the latent, or those of its tensors, without the batch."""
        raise NotImplementedError

    def encode(self, x: Tensor, **noise: Tensor) -> tuple[Any, Tensor]:
        """x [B, *shape] -> the latent, log p(x) or a bound on it [B] in nats."""
        raise NotImplementedError

    def decode(self, latent: Any) -> Tensor:
        """The x [B, *shape] of a latent."""
        raise NotImplementedError

    def draw_noise(
        self, batch: int, generator: torch.Generator | None = None, like: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Noise for a batch, in the order of `noise_shapes`."""
        like = self.reference if like is None else like
        return {
            name: self.noise_base(name).draw((batch, *shape), like, generator)
            for name, shape in self.noise_shapes().items()
        }

    def noise_base(self, name: str) -> Base:
        """What the noise of that name is drawn from."""
        return Normal()

    def draw_latent(
        self, n: int, temperature: float = 1.0, generator: torch.Generator | None = None
    ) -> Any:
        """n latents, as many tensors as the latent has, of standard deviation `temperature`."""
        shapes, like = self.latent_shapes, self.reference
        if shapes and isinstance(shapes[0], int):
            return temperature * Normal().draw((n, *shapes), like, generator)
        return tuple(temperature * Normal().draw((n, *shape), like, generator) for shape in shapes)

    def elbo(self, x: Tensor, generator: torch.Generator | None = None, **noise: Tensor) -> Tensor:
        """log p(x), or one draw of a lower bound on it (VFlow, Chen et al., 2020, Eq. 3).

        Args:
            x: [B, *shape].
            generator: Where noise that is not given is drawn from; the global one if None.
            noise: Noise by name, [B, *noise_shapes()[name]].

        Returns:
            [B], nats; differentiable.
        """
        return self.encode(x, **self.complete(x, noise, generator))[1]

    def forward(self, x: Tensor, **noise: Any) -> Tensor:
        """`elbo`, under the name that DistributedDataParallel and torch.compile call."""
        return self.elbo(x, **noise)

    @torch.no_grad()
    def log_prob(
        self,
        x: Tensor,
        samples: int = 1,
        chunk: int | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """log p(x) by importance sampling (VFlow, Chen et al., 2020, Eq. 5); exact without noise.

        A lower bound in expectation that rises with `samples`; with one it is the ELBO. Dropout is
        off, whatever the parts' modes.

        Args:
            x: [B, *shape].
            samples: Importance samples S of each x.
            chunk: Rows of x evaluated at once, with all their samples; by default as many as make
                16,384 rows.
            generator: Where noise is drawn from; the global one if None.

        Returns:
            [B], nats; no gradient.
        """
        self.see(tuple(x.shape[1:]))
        samples = samples if self.noise_shapes() else 1
        chunk = max(1, ROWS_AT_ONCE // samples) if chunk is None else chunk
        with evaluating(self):
            parts = [
                log_mean_exp(lambda rows, _: self.elbo(rows, generator), part, samples)[1]
                for part in x.split(chunk)
            ]
        return torch.cat(parts).to(self._like(x).dtype)

    @torch.no_grad()
    def sample(
        self, n: int, temperature: float = 1.0, generator: torch.Generator | None = None
    ) -> Tensor:
        """n draws of x, [n, *shape]; the same seed gives the same ones.

        Args:
            n: How many.
            temperature: Standard deviation of the latent.
            generator: Where the latent is drawn from; the global one if None.
        """
        with evaluating(self):
            return self.decode(self.draw_latent(n, temperature, generator))

    def complete(
        self, x: Tensor, noise: dict[str, Tensor], generator: torch.Generator | None
    ) -> dict[str, Tensor]:
        """The noise given, and what was not given, drawn.

        Raises:
            ValueError: If x has another shape, or noise is given that there is none of.
        """
        self.see(tuple(x.shape[1:]))
        if tuple(x.shape[1:]) != self.shape or not x.shape[0]:
            wanted = ", ".join(map(str, self.shape or ()))
            raise ValueError(
                f"x must have shape [B, {wanted}] with B at least 1, got {tuple(x.shape)}"
            )
        names = self.noise_shapes().keys()
        for name in noise:
            if name not in names:
                raise ValueError(f"{name} must be left out: {type(self).__name__} has none")
        given = {name: value for name, value in noise.items() if value is not None}
        if given.keys() == names:
            return given
        return {**self.draw_noise(x.shape[0], generator, like=self._like(x)), **given}

    @property
    def reference(self) -> Tensor:
        """A tensor of the parameters' type and device."""
        parameter = next(self.parameters(), None)
        return torch.empty(0) if parameter is None else parameter

    def _like(self, x: Tensor) -> Tensor:
        parameter = next(self.parameters(), None)
        return x if parameter is None else parameter


class FlowDensity(Density):
    """p(x) = p_base(f(x)) |det df/dx|, exactly.

    Args:
        flow: The transform f.
        shape: Shape of x, without the batch; that of the first x if None.
        base: Density of the latent; N(0, I) if None.
    """

    def __init__(self, flow: Flow, shape: Shape | None = None, base: Base | None = None) -> None:
        super().__init__()
        self.flow = flow
        self.shape = None if shape is None else tuple(shape)
        self.base = base
        self.estimated = sum(isinstance(part, ImageResidualBlock) for part in flow.modules())
        """Blocks whose log-determinants can be estimated."""

    def estimate_shapes(self) -> dict[str, Shape]:
        """The noise eps_trace of residual blocks on images, if there are any."""
        if not self.estimated:
            return {}
        assert self.shape is not None
        return {"eps_trace": (self.estimated, math.prod(self.shape) + 1)}

    def see(self, shape: Shape) -> None:
        """Take the shape of the first x, where it was not given."""
        if self.shape is None:
            self.shape = shape

    @property
    def latent_shapes(self) -> Shapes:
        """What the transform makes of `shape`.

        Raises:
            ValueError: If that is not known yet.
        """
        if self.shape is None:
            raise ValueError("shape must be given, or an x evaluated, before sampling")
        return self.flow.output_shape(self.shape)

    def draw_latent(
        self, n: int, temperature: float = 1.0, generator: torch.Generator | None = None
    ) -> Any:
        """n latents; the temperature is N(0, I)'s alone."""
        if self.base is None:
            return super().draw_latent(n, temperature, generator)
        if temperature != 1:
            raise ValueError(
                f"temperature must be 1.0 where the base density is not N(0, I), got {temperature}"
            )
        return self.base.draw((n, *self.latent_shapes), self.reference, generator)

    def encode(self, x: Tensor, **noise: Tensor) -> tuple[Any, Tensor]:
        """x [B, *shape] -> the latent, log p(x) [B] in nats."""
        if self.estimated:
            latent, logdet = self.flow(x, noise.get("eps_trace"))
        else:
            latent, logdet = self.flow(x)
        return latent, self.base_log_prob(latent) + logdet

    def decode(self, latent: Any) -> Tensor:
        """The x [B, *shape] of a latent."""
        if self.estimated:
            return self.flow.inverse(latent, no_logdet(tensors_of(latent)[0]))[0]
        return self.flow.inverse(latent)[0]

    def base_log_prob(self, latent: Any) -> Tensor:
        """log p_base(latent) [B] in nats, over all its tensors."""
        if self.base is not None:
            return self.base.log_prob(latent)
        first, *others = tensors_of(latent)
        total = normal_log_prob(first)
        for other in others:
            total = total + normal_log_prob(other)
        return total
