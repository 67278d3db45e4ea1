"""What an image model is made of, its noise, and the checks of both."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from vflow.densities import ConditionalDensity, Dequantized, Normal
from vflow.flows import Flow, no_logdet
from vflow.models.builders.conditional import PREPROCESSES
from vflow.models.checks import require_count, require_float, require_images
from vflow.models.image_flow.layout import to_nchw, to_nhwc
from vflow.models.initialization import a_weight
from vflow.models.pretrained import Pretrained, take_old_names
from vflow.models.tree import as_model_config, build


class ImageParts(Pretrained, nn.Module):
    """A `Dequantized` density with its config: the parts, and the noise that they take."""

    density: Dequantized

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = as_model_config(config)
        self.register_load_state_dict_pre_hook(take_old_names)
        if not self.config.is_image:
            raise ValueError(f"config must be of images, got data of shape {self.config.shape}")
        self.data_shape = self.config.shape
        self.dims = math.prod(self.data_shape)
        density, dequantizer = build(self.config)
        assert dequantizer is not None
        preprocess = PREPROCESSES[self.config.dequantize.preprocess]()
        self.density = Dequantized(density, dequantizer, preprocess)

    @property
    def dequantizer(self) -> ConditionalDensity:
        """r(u|x)."""
        return self.density.dequantizer

    @property
    def preprocess(self) -> Flow:
        """From [0, 256) to the real line."""
        return self.density.preprocess

    @property
    def posterior(self) -> ConditionalDensity:
        """q(z|x), of a model with extra dimensions."""
        density: Any = self.density.density
        return density.posterior

    @property
    def flow(self) -> Flow:
        """The transform of x and z together."""
        density: Any = self.density.density
        return density.flow if self.config.augment is None else density.density.flow

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self._parameter.device

    @property
    def _parameter(self) -> Tensor:
        return a_weight(self)

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
        batch = require_count("batch", batch)
        noise = self.density.draw_noise(batch, generator, like=self._parameter)
        return {name: to_nchw(value) for name, value in noise.items()}

    def draw_training_noise(
        self, batch: int, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """Noise to train by: that of `draw_noise`, and eps_trace for a model with residual blocks.

        Args:
            batch: Number of images B.
            generator: Where it is drawn from; the global one if None.

        Returns:
            Keyword arguments of `forward`; eps_trace is [B, blocks, D + 1], with all dimensions D.

        Raises:
            ValueError: If batch is below 1.
        """
        noise = self.draw_noise(batch, generator)
        for name, shape in self.density.estimate_shapes().items():
            noise[name] = Normal().draw((len(noise["eps_u"]), *shape), self._parameter, generator)
        return noise

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
        channels = {name: shape[-1] for name, shape in self.density.noise_shapes().items()}
        for name, value in noise.items():
            if name not in channels:
                raise ValueError(f"{name} must be None: {type(self).__name__} has no such noise")
            shape = (channels[name], *size)
            require_float(name, value, shape, like=self._parameter, batch=batch)
        if noise.keys() != channels.keys():
            noise = {**self.draw_noise(batch, generator), **noise}
        return noise

    def _checked_trace(self, eps_trace: Tensor, batch: int) -> Tensor:
        shape = self.density.estimate_shapes().get("eps_trace")
        if shape is None:
            raise ValueError(
                f"eps_trace must be None: {type(self).__name__} has no residual blocks"
            )
        if not isinstance(eps_trace, Tensor) or eps_trace.shape != (batch, *shape):
            came = tuple(eps_trace.shape) if isinstance(eps_trace, Tensor) else eps_trace
            raise ValueError(f"eps_trace must have shape {(batch, *shape)}, got {came}")
        return eps_trace

    def _require_images(self, images: Tensor) -> None:
        require_images(images, self.data_shape, self.device)

    def _elbo(
        self, images: Tensor, features: Tensor | None = None, **noise: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Images NCHW and noise NHWC -> latent NHWC, ELBO [B]; `features` as of `elbo`."""
        return self.density.encode(to_nhwc(images), features=features, **noise)

    def _latent(self, images: Tensor, noise: dict[str, Tensor]) -> Any:
        """The latent NHWC alone: no log-determinant is made that is dear."""
        nhwc = {name: to_nhwc(value) for name, value in noise.items()}
        for name in self.density.estimate_shapes():
            nhwc[name] = no_logdet(noise["eps_u"])
        return self._elbo(images, **nhwc)[0]
