"""Which images make up the batch of a step: a pure function of the seed and the step."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class BatchOrder:
    """Shuffled batches without state to save: step k is the same whenever it is asked for.

    Every epoch visits the images in a permutation of its own, cut into global batches; what does
    not fill a last batch is left out of that epoch. Each rank takes its contiguous part of the
    same global batch, so that one process and many train on the same batches.

    Args:
        num_images: Size of the training set.
        batch_size: Images in a global batch, over all ranks.
        seed: Any integer >= 0.
        rank: This process.
        world_size: Number of processes; must divide `batch_size`.

    Raises:
        ValueError: If an argument is out of range.
    """

    num_images: int
    batch_size: int
    seed: int
    rank: int = 0
    world_size: int = 1
    _epoch: int = field(default=-1, init=False, repr=False, compare=False)
    _permutation: Tensor = field(
        default_factory=lambda: torch.empty(0), init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        least = {"num_images": 1, "batch_size": 1, "seed": 0, "rank": 0, "world_size": 1}
        for name, minimum in least.items():
            value = getattr(self, name)
            if type(value) is not int or value < minimum:
                raise ValueError(f"{name} must be an integer >= {minimum}, got {value!r}")
        if self.rank >= self.world_size:
            raise ValueError(f"rank must be below world_size {self.world_size}, got {self.rank}")
        if self.batch_size % self.world_size:
            raise ValueError(
                f"batch_size must be divisible by the number of processes {self.world_size}, "
                f"got {self.batch_size}"
            )
        if self.batch_size > self.num_images:
            raise ValueError(
                "batch_size must be at most the number of training images "
                f"{self.num_images}, got {self.batch_size}"
            )

    @property
    def steps_per_epoch(self) -> int:
        """Number of whole global batches in an epoch."""
        return self.num_images // self.batch_size

    def epoch(self, step: int) -> int:
        """The epoch, from 0, that `step` belongs to."""
        if step < 0:
            raise ValueError(f"step must be >= 0, got {step}")
        return step // self.steps_per_epoch

    def indices(self, step: int) -> Tensor:
        """This rank's images of a step.

        Args:
            step: The step, from 0.

        Returns:
            int64 [batch_size // world_size], on the CPU.
        """
        epoch = self.epoch(step)
        if epoch != self._epoch:
            self._epoch, self._permutation = epoch, self._permute(epoch)
        local = self.batch_size // self.world_size
        start = step % self.steps_per_epoch * self.batch_size + self.rank * local
        return self._permutation[start : start + local].clone()

    def _permute(self, epoch: int) -> Tensor:
        # A hash, because seed + epoch would give seed 0, epoch 1 the order of seed 1, epoch 0.
        digest = hashlib.sha256(f"{self.seed} {epoch}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:4], "big"))
        return torch.randperm(self.num_images, generator=generator)
