"""Every score of a set of images at once, fitted on known images where a score needs that."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from vflow.models import ImageFlow
from vflow.scores.complexity import code_bits
from vflow.scores.density_of_states import DensityOfStates
from vflow.scores.judges import (
    complexity_corrected,
    disagreement,
    likelihood_ratio,
    typicality,
    typicality_one_sided,
    waic,
)
from vflow.scores.measurements import Measurements, measure

Numbers = NDArray[np.float64]
Table = dict[str, Numbers]
"""Score -> its values, [N]."""

STATISTICS = (
    "bits_per_dim",
    "complexity_corrected",
    "latent_norm",
    "latent_distance",
    "latent_autocorrelation",
)
"""What the density of states looks at."""


@dataclass(frozen=True, kw_only=True)
class Scorer:
    """A model with what else scores need: a codec, a background model, an ensemble."""

    model: ImageFlow
    codec: str = "webp"
    """The codec whose length stands for an image's complexity."""
    background: ImageFlow | None = None
    """The second model of the likelihood ratio."""
    ensemble: Sequence[ImageFlow] = ()
    """Models beside `model` whose disagreement counts."""
    samples: int = 1
    """Importance samples an image."""
    batch_size: int = 64
    """Images x samples at once, about."""
    seed: int = 0
    """Seed of the noise."""

    @property
    def passes(self) -> int:
        """How often `measured` goes through the images."""
        return 1 + (self.background is not None) + len(self.ensemble)

    def measured(self, images: Tensor, progress: Callable[[int], object] | None = None) -> Table:
        """The scores that need no known images.

        Args:
            images: uint8 [N, C, H, W].
            progress: Called with a number of images after each batch; `passes` times N in all.
        """
        found = self._measure(self.model, images, progress)
        table: Table = {
            "bits_per_dim": found.bits,
            "complexity_corrected": complexity_corrected(found.bits, code_bits(images, self.codec)),
            "latent_norm": found.latent_norm,
            "latent_distance": found.latent_distance,
            "latent_autocorrelation": found.latent_autocorrelation,
        }
        if self.background is not None:
            second = self._measure(self.background, images, progress)
            table["likelihood_ratio"] = likelihood_ratio(found.bits, second.bits)
        if self.ensemble:
            others = [self._measure(model, images, progress).bits for model in self.ensemble]
            bits = np.stack([found.bits, *others])
            table["waic"], table["disagreement"] = waic(bits), disagreement(bits)
        return table

    def _measure(
        self, model: ImageFlow, images: Tensor, progress: Callable[[int], object] | None
    ) -> Measurements:
        return measure(
            model,
            images,
            samples=self.samples,
            batch_size=self.batch_size,
            seed=self.seed,
            progress=progress,
        )


class Fitted:
    """What the scores that need known images learned from them.

    Args:
        known: What `Scorer.measured` says of training images.
    """

    def __init__(self, known: Mapping[str, Numbers]) -> None:
        self.entropy = float(known["bits_per_dim"].mean())
        """Mean of -log P, bits/dim."""
        self._states = DensityOfStates({name: known[name] for name in STATISTICS})

    def complete(self, table: Mapping[str, Numbers]) -> Table:
        """A table with the scores that need known images added to it."""
        bits = table["bits_per_dim"]
        return {
            **table,
            "typicality": typicality(bits, self.entropy),
            "typicality_one_sided": typicality_one_sided(bits, self.entropy),
            "density_of_states": self._states.score({name: table[name] for name in STATISTICS}),
        }
