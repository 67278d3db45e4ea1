"""The data-dependent initialisation of an image model, on its first batch or when asked for."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vflow.models.image_flow.parts import ImageParts
from vflow.models.initialization import as_made, initialize_together, warn_if_half_made
from vflow.models.spread import with_spread


class Initialized(ImageParts):
    """Knows whether its parameters come from data, and finds them from data."""

    _initialized: Tensor

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.register_buffer("_initialized", torch.tensor(False))
        self._is_initialized = False
        self.register_load_state_dict_post_hook(_judge_again)

    @property
    def initialized(self) -> bool:
        """Whether the parameters are others than those the model was made with.

        So they are once they come from data-dependent initialisation, from training, from a file or
        from an average over a training run: none of these is initialised again. Reading it may
        wait for the device as long as it is False.
        """
        if not self._is_initialized and not self._initialized.is_meta:
            self._is_initialized = bool(self._initialized) or not as_made(self)
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
        synchronize: bool = True,
    ) -> None:
        """Data-dependent initialisation, with dropout off (Ho et al., 2019).

        Elements that do not vary over the images are initialised from noise in their place.

        Under `torch.distributed` every process has to call it, and all take the parameters that
        rank 0 finds from its own images. It has to come before FSDP or another wrapper that shards
        the parameters; before or after DistributedDataParallel.

        Args:
            images: uint8 [B, C, H, W], B at least 2.
            eps_u: As for `elbo`.
            eps_z: As for `elbo`.
            generator: As for `elbo`.
            synchronize: False initialises this process's model alone.

        Raises:
            ValueError: If an argument has the wrong type or shape, or the parameters are sharded.
        """
        self._require_images(images)
        too_few = None
        if images.shape[0] < 2:
            too_few = (
                "images must be at least 2 to initialise from, got 1: call initialize(images) with "
                "more before the first batch"
            )
        noise = self._noise(images, eps_u, eps_z, generator)
        initialize_together(
            self, lambda: self._latent(with_spread(images), noise), too_few, synchronize
        )
        self.mark_initialized()

    def _meet_first_batch(self, images: Tensor, noise: dict[str, Tensor]) -> None:
        """Initialise, unless the parameters come from somewhere already."""
        if self.initialized:
            warn_if_half_made(self)
            self.mark_initialized()
        elif not self._initialized.is_meta:
            self.initialize(images, noise["eps_u"], noise.get("eps_z"))


def _judge_again(model: Any, _: object) -> None:
    # What is known is kept beside the buffer: to ask the device at every step would be to wait.
    model._is_initialized = False
