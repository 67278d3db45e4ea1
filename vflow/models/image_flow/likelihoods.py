"""Likelihoods of images: the bound, an estimate of it, importance sampling, bits/dim."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from vflow.densities.importance import copies, log_mean_exp
from vflow.densities.modes import evaluating, gradients_if
from vflow.flows.elementwise import PIXEL_VALUES
from vflow.models.checks import require_count, require_float
from vflow.models.image_flow.initialized import Initialized
from vflow.models.image_flow.layout import to_nhwc

ROWS_AT_ONCE = 256


class Likelihoods(Initialized):
    """log P of images [B, C, H, W], in nats an image."""

    def forward(
        self,
        images: Tensor,
        eps_u: Tensor | None = None,
        eps_z: Tensor | None = None,
        generator: torch.Generator | None = None,
        eps_trace: Tensor | None = None,
        features: Tensor | None = None,
    ) -> Tensor:
        """`elbo`, under the name that DistributedDataParallel and torch.compile call.

        Given `eps_trace`, which `draw_training_noise` draws for models with residual blocks, it is
        an unbiased estimate of the ELBO: a loss, no bound of a single image.
        """
        self._require_images(images)
        noise = self._noise(images, eps_u, eps_z, generator)
        if self.training and not self._is_initialized:
            meet = self._meet_first_batch
            if torch.compiler.is_compiling():  # eager PyTorch would import its compiler for this
                meet = torch.compiler.disable(meet)
            meet(images, noise)
        nhwc = {name: to_nhwc(value) for name, value in noise.items()}
        if eps_trace is not None:
            nhwc["eps_trace"] = self._checked_trace(eps_trace, len(images))
        return self._elbo(images, features=features, **nhwc)[1]

    def elbo(
        self,
        images: Tensor,
        eps_u: Tensor | None = None,
        eps_z: Tensor | None = None,
        generator: torch.Generator | None = None,
        features: Tensor | None = None,
    ) -> Tensor:
        """One-sample evidence lower bound on log P(images) (VFlow, Chen et al., 2020, Eq. 7).

        Differentiable with respect to the parameters. Exact with residual blocks too, from their
        whole Jacobians: on large images `estimate_elbo` is what does not take minutes an image.

        Args:
            images: uint8 [B, C, H, W].
            eps_u: Noise of the dequantizer, [B, C, H, W]; drawn if None.
            eps_z: Noise of q(z|x), [B, Dz, H, W] (VFlow only); drawn if None.
            generator: Where noise is drawn from; the global one if None.
            features: What `features` has seen in these images; computed if None.

        Returns:
            [B], nats an image.

        Raises:
            ValueError: If an argument has the wrong type or shape.
        """
        return self.forward(images, eps_u, eps_z, generator, features=features)

    def features(self, images: Tensor) -> Tensor | None:
        """What the dequantizer's network sees in images [B, C, H, W], whatever the noise: [B, ...].

        Of several samples of an image it is the same, and `elbo` takes it as `features`. None for a
        dequantizer that has no network.
        """
        self._require_images(images)
        dequantizer = self.density.dequantizer
        if dequantizer.flow is None:
            return None
        found: Tensor = dequantizer.features(to_nhwc(images).to(self._parameter.dtype))
        return found

    @torch.no_grad()
    def estimate_elbo(
        self, images: Tensor, draws: int = 8, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """An unbiased estimate of the expected ELBO and its standard error.

        The mean over draws of all noise, that of the log-determinants of residual blocks included.
        Where a model has none, it is the mean of exact ELBOs. It may lie above log P(images), and
        its exponential is biased upwards: no importance sampling by it. Dropout is off.

        Args:
            images: uint8 [B, C, H, W].
            draws: Draws an image, at least 2.
            generator: Where noise is drawn from; the global one if None.

        Returns:
            The estimate [B] and its standard error [B], nats an image.

        Raises:
            ValueError: If an argument is of the wrong type, shape or range.
        """
        self._require_images(images)
        if require_count("draws", draws) < 2:
            raise ValueError(f"draws must be at least 2 for a standard error, got {draws}")
        with evaluating(self):
            rows = torch.stack(
                [
                    self(images, **self.draw_training_noise(len(images), generator)).double()
                    for _ in range(draws)
                ]
            )
        dtype = self._parameter.dtype
        return rows.mean(0).to(dtype), (rows.std(0) / math.sqrt(draws)).to(dtype)

    def log_prob(
        self,
        images: Tensor,
        samples: int = 1,
        chunk: int | None = None,
        generator: torch.Generator | None = None,
        differentiable: bool = False,
    ) -> Tensor:
        """log P(images) by importance sampling (VFlow, Chen et al., 2020, Eq. 5).

        A lower bound in expectation that rises with `samples`; with one it is the ELBO. Dropout
        is off, whatever the model's mode.

        Args:
            images: uint8 [B, C, H, W].
            samples: Number S of importance samples an image.
            chunk: Samples evaluated at once for every image, which bounds the memory; by default
                as many as make 256 rows.
            generator: Where noise is drawn from; the global one if None.
            differentiable: Whether gradients flow to the parameters; then `chunk` bounds nothing.

        Returns:
            [B], nats an image.

        Raises:
            ValueError: If an argument is of the wrong type, shape or range.
        """
        self._require_images(images)
        with evaluating(self), gradients_if(differentiable):
            seen = self.features(images)

            def bound(rows: Tensor, numbers: range) -> Tensor:
                return self.elbo(rows, generator=generator, features=copies(seen, len(numbers)))

            return self._importance_sampled(bound, images, samples, chunk)

    def log_density(
        self,
        values: Tensor,
        samples: int = 1,
        chunk: int | None = None,
        generator: torch.Generator | None = None,
        differentiable: bool = False,
    ) -> Tensor:
        """log p(values) of real-valued images: for those who dequantize themselves.

        The density of what `elbo` makes of images, pixels + u, without r(u|x): the mean of
        exp(log_density) over u uniform in [0, 1) is P(images). Exact for a model without extra
        dimensions, else by importance sampling of z, as `log_prob`. Dropout is off.

        Args:
            values: [B, C, H, W] in [0, 256), of the model's floating type.
            samples: Number S of importance samples an image.
            chunk: As for `log_prob`.
            generator: Where z is drawn from; the global one if None.
            differentiable: Whether gradients flow, to the values and to the parameters.

        Returns:
            [B], nats an image; `to_bits_per_dim` turns them to bits/dim.

        Raises:
            ValueError: If an argument is of the wrong type, shape or range.
        """
        require_float("values", values, self.data_shape, like=self._parameter)
        low, high = values.detach().aminmax()
        if not (low >= 0 and high < PIXEL_VALUES):  # NaN is neither
            raise ValueError(
                f"values must lie in [0, {PIXEL_VALUES}), got {low:g} to {high:g}; pixels are not "
                "to be divided by 255"
            )
        source = self.density.density

        def bound(rows: Tensor, _: range) -> Tensor:
            noise = source.draw_noise(rows.shape[0], generator, like=rows)
            return self.density.encode_values(to_nhwc(rows), **noise)[1]

        samples = require_count("samples", samples) if source.noise_shapes() else 1
        with evaluating(self), gradients_if(differentiable):
            return self._importance_sampled(bound, values, samples, chunk)

    def _importance_sampled(
        self,
        bound: Callable[[Tensor, range], Tensor],
        images: Tensor,
        samples: int,
        chunk: int | None,
    ) -> Tensor:
        samples = require_count("samples", samples)
        usual = max(1, ROWS_AT_ONCE // images.shape[0])
        chunk = require_count("chunk", usual if chunk is None else chunk)
        return log_mean_exp(bound, images, samples, chunk)[1].to(self._parameter.dtype)

    def bits_per_dim(
        self,
        images: Tensor,
        samples: int = 1,
        chunk: int | None = None,
        generator: torch.Generator | None = None,
        differentiable: bool = False,
    ) -> Tensor:
        """-log P / (D ln 2) by `log_prob`, whose arguments and errors it shares: [B], bits/dim."""
        return self.to_bits_per_dim(
            self.log_prob(images, samples, chunk, generator, differentiable)
        )

    def to_bits_per_dim(self, log_prob: Tensor) -> Tensor:
        """Nats an image -> bits a data dimension."""
        return log_prob / (-self.dims * math.log(2))
