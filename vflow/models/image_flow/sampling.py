"""From latents to images and back."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vflow.densities.modes import evaluating, gradients_if
from vflow.flows import ImageResidualBlock
from vflow.flows.elementwise import PIXEL_VALUES
from vflow.models.checks import require_count, require_float, require_temperature
from vflow.models.image_flow.layout import each, to_nchw, to_nhwc
from vflow.models.image_flow.parts import ImageParts

IMAGES_AT_ONCE = 256


class Sampling(ImageParts):
    """Draws images, and takes them to their latents and back."""

    def sample(
        self,
        n: int,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
        chunk: int = IMAGES_AT_ONCE,
        differentiable: bool = False,
    ) -> Tensor:
        """Draw images.

        Args:
            n: How many.
            temperature: Standard deviation of the latent; 0 gives the image of the likeliest one.
            generator: Where the latent is drawn from; the same seed gives the same images.
            chunk: Images made at once, which bounds the memory and changes nothing else.
            differentiable: Whether gradients flow to the parameters; the images are real-valued
                then.

        Returns:
            uint8 [n, C, H, W]; if differentiable x + u of the model's type, in [0, 256].

        Raises:
            ValueError: If n or chunk is below 1, or the temperature no number of at least 0.
        """
        n, chunk = require_count("n", n), require_count("chunk", chunk)
        latent = self.density.draw_latent(n, require_temperature(temperature), generator)
        parts = latent if isinstance(latent, tuple) else (latent,)
        images = []
        for rows in zip(*(to_nchw(part).split(chunk) for part in parts), strict=True):
            images.append(self.decode(rows if len(rows) > 1 else rows[0], differentiable))
        values = torch.cat(images).clamp(0, PIXEL_VALUES)
        return values if differentiable else values.floor().clamp_max(255).to(torch.uint8)

    @torch.no_grad()
    def encode(
        self,
        images: Tensor,
        eps_u: Tensor | None = None,
        eps_z: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Any:
        """The latent of images under drawn or given noise; arguments and errors as for `elbo`.

        Dropout is off, whatever the model's mode; no gradient.

        Returns:
            [B, 4(C + Dz), H/2, W/2], or as `latent_shapes` says: a tuple of tensors where the flow
            factors out. Standard normal if the model is perfect.
        """
        self._require_images(images)
        noise = self._noise(images, eps_u, eps_z, generator)
        with evaluating(self):
            return each(to_nchw, self._latent(images, noise))

    def decode(self, latent: Any, differentiable: bool = False) -> Tensor:
        """The images x + u of a latent; `decode(encode(images)).floor()` gives the images back.

        Dropout is off, whatever the model's mode.

        Args:
            latent: As `encode` gives it. Values outside the flow's range are clipped.
            differentiable: Whether gradients flow, to the latent and to the parameters.

        Returns:
            [B, C, H, W], finite; in [0, 256) for latents of images.

        Raises:
            ValueError: If the latent has the wrong type or shape.
        """
        self._require_latent(latent)
        if differentiable and any(isinstance(part, ImageResidualBlock) for part in self.modules()):
            raise ValueError(
                "differentiable must be False for a model with residual blocks, whose inverse is "
                "a fixed point without gradients"
            )
        with evaluating(self), gradients_if(differentiable):
            return to_nchw(self.density.decode(each(to_nhwc, latent)))

    @property
    def latent_shapes(self) -> tuple[Any, ...]:
        """Shape [C, H, W] of an image's latent, or a tuple of those of its tensors."""
        shapes = self.density.latent_shapes
        if isinstance(shapes[0], int):
            return (shapes[-1], *shapes[:-1])
        return tuple((shape[-1], *shape[:-1]) for shape in shapes)

    def _require_latent(self, latent: Any) -> None:
        shapes = self.latent_shapes
        several = not isinstance(shapes[0], int)
        if several and (not isinstance(latent, tuple | list) or len(latent) != len(shapes)):
            came = f"{len(latent)}" if isinstance(latent, tuple | list) else type(latent).__name__
            raise ValueError(f"latent must be a tuple of {len(shapes)} tensors, got {came}")
        for shape, part in zip(shapes, latent, strict=True) if several else [(shapes, latent)]:
            require_float("latent", part, shape, like=self._parameter)
        if several and len({len(part) for part in latent}) > 1:
            raise ValueError("latent must have the same B in all its tensors")
