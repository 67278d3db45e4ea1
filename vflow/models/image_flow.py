"""What Flow++ and VFlow share: the public API of an image model."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from vflow.flows import Compose, Preprocess
from vflow.models.checks import require_count, require_float, require_images
from vflow.models.config import FlowPlusPlusConfig
from vflow.models.dequantize import UniformDequantizer, VariationalDequantizer
from vflow.models.initialization import a_weight, data_dependent_init
from vflow.models.pretrained import Pretrained
from vflow.models.steps import StepConfig, draw
from vflow.nets import ContextNetwork, Trunk

PRECISIONS = {"fp32": None, "bf16": torch.bfloat16}
ROWS_AT_ONCE = 256


class ImageFlow(Pretrained, nn.Module):
    """A likelihood-based model of uint8 images [B, C, H, W].

    Log-likelihoods are of the discrete images, in nats an image; bits/dim counts the data
    dimensions only. Noise may be given, or a `torch.Generator` to draw it from.

    A model in training mode initialises itself on the first batch `elbo` sees.
    """

    weight_std: float
    flow: Compose
    _initialized: Tensor

    def __init__(self, config: FlowPlusPlusConfig) -> None:
        super().__init__()
        self.config = config
        height, width = config.image_size
        self.data_shape = (config.in_channels, height, width)
        self.dims = config.in_channels * height * width
        self.register_buffer("_initialized", torch.tensor(False))
        self._is_initialized = False
        self.register_load_state_dict_post_hook(_read_initialized)

        self.preprocess = Preprocess()
        image_shape = (height, width, config.in_channels)
        self.dequantizer: VariationalDequantizer | UniformDequantizer
        if config.dequantizer == "flow":
            steps = StepConfig.of(
                config,
                config.dequantizer_blocks,
                config.attention,
                self.weight_std,
                has_context=True,
            )
            self.dequantizer = VariationalDequantizer(image_shape, steps)
        else:
            self.dequantizer = UniformDequantizer()

    # What a subclass defines

    def _draw_noise_nhwc(self, batch: int, generator: torch.Generator | None) -> dict[str, Tensor]:
        height, width = self.config.image_size
        shape = (batch, height, width, self.config.in_channels)
        return {"eps_u": self.dequantizer.draw(shape, self._parameter, generator)}

    def _encode(self, x: Tensor, eps_z: Tensor | None) -> tuple[Tensor, Tensor]:
        """Preprocessed x [B, H, W, C] -> latent, log p(x, z) - log q(z|x) [B]."""
        raise NotImplementedError

    def _decode(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        """Latent [B, H/2, W/2, 4C'] -> preprocessed x [B, H, W, C], z [B, H, W, Dz]."""
        raise NotImplementedError

    # Likelihood

    def forward(
        self,
        images: Tensor,
        eps_u: Tensor | None = None,
        eps_z: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """`elbo`, under the name that DistributedDataParallel and torch.compile call."""
        self._require_images(images)
        noise = self._noise(images, eps_u, eps_z, generator)
        if self.training and not self._is_initialized:
            self.initialize(images, noise["eps_u"], noise.get("eps_z"))
        return self._elbo(images, **{k: _to_nhwc(v) for k, v in noise.items()})[1]

    def elbo(
        self,
        images: Tensor,
        eps_u: Tensor | None = None,
        eps_z: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """One-sample evidence lower bound on log P(images) (VFlow, Chen et al., 2020, Eq. 7).

        Differentiable with respect to the parameters.

        Args:
            images: uint8 [B, C, H, W].
            eps_u: Noise of the dequantizer, [B, C, H, W]; drawn if None.
            eps_z: Noise of q(z|x), [B, Dz, H, W] (VFlow only); drawn if None.
            generator: Where noise is drawn from; the global one if None.

        Returns:
            [B], nats an image.

        Raises:
            ValueError: If an argument has the wrong type or shape.
        """
        return self.forward(images, eps_u, eps_z, generator)

    def _elbo(
        self, images: Tensor, eps_u: Tensor, eps_z: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Images NCHW and noise NHWC -> latent NHWC, ELBO [B]."""
        pixels = _to_nhwc(images).to(eps_u.dtype)
        u, log_r = self.dequantizer(pixels, eps_u)
        x, logdet = self.preprocess(pixels + u)
        latent, log_p = self._encode(x, eps_z)
        return latent, log_p + logdet - log_r

    @torch.no_grad()
    def log_prob(
        self,
        images: Tensor,
        samples: int = 1,
        chunk: int | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """log P(images) by importance sampling (VFlow, Chen et al., 2020, Eq. 5).

        A lower bound in expectation that rises with `samples`; with one it is the ELBO. Dropout
        is off, whatever the model's mode; no gradient.

        Args:
            images: uint8 [B, C, H, W].
            samples: Number S of importance samples an image.
            chunk: Samples evaluated at once for every image, which bounds the memory; by default
                as many as make 256 rows.
            generator: Where noise is drawn from; the global one if None.

        Returns:
            [B], nats an image.

        Raises:
            ValueError: If an argument is of the wrong type, shape or range.
        """
        self._require_images(images)
        require_count("samples", samples)
        if chunk is None:
            chunk = max(1, ROWS_AT_ONCE // images.shape[0])
        require_count("chunk", chunk)
        with self._evaluating():
            # float64, or the sum of thousands of terms near -7000 nats loses what S gains.
            total = torch.full(
                images.shape[:1], -math.inf, dtype=torch.float64, device=images.device
            )
            for start in range(0, samples, chunk):
                count = min(chunk, samples - start)
                rows = images.repeat_interleave(count, 0)
                terms = self.elbo(rows, generator=generator).double().view(-1, count)
                total = torch.logaddexp(total, terms.logsumexp(1))
        return (total - math.log(samples)).to(self._parameter.dtype)

    def bits_per_dim(
        self,
        images: Tensor,
        samples: int = 1,
        chunk: int | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """-log P / (D ln 2) by `log_prob`, whose arguments and errors it shares: [B], bits/dim."""
        return self.to_bits_per_dim(self.log_prob(images, samples, chunk, generator))

    def to_bits_per_dim(self, log_prob: Tensor) -> Tensor:
        """Nats an image -> bits a data dimension."""
        return log_prob / (-self.dims * math.log(2))

    # Sampling and coding

    @torch.no_grad()
    def sample(
        self, n: int, temperature: float = 1.0, generator: torch.Generator | None = None
    ) -> Tensor:
        """Draw images.

        Args:
            n: How many.
            temperature: Standard deviation of the latent.
            generator: Where the latent is drawn from; the same seed gives the same images.

        Returns:
            uint8 [n, C, H, W].

        Raises:
            ValueError: If n is below 1 or the temperature not a positive number.
        """
        require_count("n", n)
        if not (isinstance(temperature, int | float) and 0 < temperature < math.inf):
            raise ValueError(f"temperature must be a positive number, got {temperature!r}")
        height, width = self.config.image_size
        shape = (n, height // 2, width // 2, 4 * self.config.total_channels)
        latent = temperature * draw(shape, self._parameter, generator)
        return self.decode(_to_nchw(latent)).floor().clamp(0, 255).to(torch.uint8)

    @torch.no_grad()
    def encode(
        self,
        images: Tensor,
        eps_u: Tensor | None = None,
        eps_z: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """The latent of images under drawn or given noise; arguments and errors as for `elbo`.

        Dropout is off, whatever the model's mode; no gradient.

        Returns:
            [B, 4(C + Dz), H/2, W/2]; standard normal if the model is perfect.
        """
        self._require_images(images)
        noise = self._noise(images, eps_u, eps_z, generator)
        with self._evaluating():
            return _to_nchw(self._elbo(images, **{k: _to_nhwc(v) for k, v in noise.items()})[0])

    @torch.no_grad()
    def decode(self, latent: Tensor) -> Tensor:
        """The images x + u of a latent; `decode(encode(images)).floor()` gives the images back.

        Dropout is off, whatever the model's mode; no gradient.

        Args:
            latent: [B, 4(C + Dz), H/2, W/2]. Values outside the flow's range are clipped.

        Returns:
            [B, C, H, W], finite; in [0, 256) for latents of images.

        Raises:
            ValueError: If the latent has the wrong type or shape.
        """
        height, width = self.config.image_size
        shape = (4 * self.config.total_channels, height // 2, width // 2)
        require_float("latent", latent, shape, like=self._parameter)
        with self._evaluating():
            x, _ = self._decode(_to_nhwc(latent))
            return _to_nchw(self.preprocess.inverse(x)[0])

    # Noise and initialisation

    def draw_noise(self, batch: int, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Noise for a batch: the keyword arguments eps_u (and eps_z) of `elbo`.

        Args:
            batch: Number of images B.
            generator: Where it is drawn from; the global one if None.

        Returns:
            eps_u [B, C, H, W] and, for VFlow, eps_z [B, Dz, H, W].

        Raises:
            ValueError: If batch is below 1.
        """
        require_count("batch", batch)
        noise = self._draw_noise_nhwc(batch, generator)
        return {name: _to_nchw(value) for name, value in noise.items()}

    @property
    def initialized(self) -> bool:
        """Whether the parameters come from data-dependent initialisation, or were loaded."""
        return self._is_initialized

    def mark_initialized(self) -> None:
        """Say that the parameters need no data-dependent initialisation."""
        self._is_initialized = True
        self._initialized.fill_(True)

    def initialize(
        self,
        images: Tensor,
        eps_u: Tensor | None = None,
        eps_z: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        """Data-dependent initialisation, with dropout off (Ho et al., 2019).

        Arguments and errors as for `elbo`; at least 2 images.
        """
        self._require_images(images)
        if images.shape[0] < 2:
            raise ValueError("images must be at least 2 to initialise from, got 1")
        noise = self._noise(images, eps_u, eps_z, generator)
        nhwc = {name: _to_nhwc(value) for name, value in noise.items()}
        with self._evaluating():
            data_dependent_init(self, lambda: self._elbo(images, **nhwc))
        self.mark_initialized()

    def set_precision(self, precision: str) -> None:
        """Run the couplings' networks under autocast; all else stays as the parameters are.

        Args:
            precision: "fp32" (no autocast) or "bf16".

        Raises:
            ValueError: If it is neither.
        """
        if precision not in PRECISIONS:
            raise ValueError(f"precision must be fp32 or bf16, got {precision!r}")
        for module in self.modules():
            if isinstance(module, Trunk | ContextNetwork):
                module.compute_dtype = PRECISIONS[precision]

    def set_recompute(self, recompute: bool) -> None:
        """Say whether the backward pass computes the couplings' blocks again, to spare memory."""
        for module in self.modules():
            if isinstance(module, Trunk):
                module.recompute = recompute

    # Checks and odds and ends

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self._parameter.device

    @property
    def _parameter(self) -> Tensor:
        return a_weight(self)

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        """Dropout off within."""
        training = self.training
        self.eval()
        try:
            yield
        finally:
            self.train(training)

    def _noise_channels(self) -> dict[str, int]:  # a property's super() cannot be compiled
        return {"eps_u": self.config.in_channels}

    def _noise(
        self,
        images: Tensor,
        eps_u: Tensor | None,
        eps_z: Tensor | None,
        generator: torch.Generator | None,
    ) -> dict[str, Tensor]:
        """The noise given, checked, and what was not given, drawn."""
        batch, size = images.shape[0], self.data_shape[1:]
        given = {"eps_u": eps_u, "eps_z": eps_z}
        noise = {name: value for name, value in given.items() if value is not None}
        channels = self._noise_channels()
        for name, value in noise.items():
            if name not in channels:
                raise ValueError(f"{name} must be None: {type(self).__name__} has no such noise")
            shape = (channels[name], *size)
            require_float(name, value, shape, like=self._parameter, batch=batch)
        if noise.keys() != channels.keys():
            noise = {**self.draw_noise(batch, generator), **noise}
        return noise

    def _require_images(self, images: Tensor) -> None:
        require_images(images, self.data_shape, self.device)


def _to_nhwc(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1).contiguous()


def _to_nchw(x: Tensor) -> Tensor:
    return x.permute(0, 3, 1, 2)


def _read_initialized(model: Any, _: object) -> None:
    # A Python flag beside the buffer: reading the buffer would wait for the GPU at every step.
    model._is_initialized = bool(model._initialized)
