"""What bench/throughput.py times: a training step, sampling, likelihoods, and the authors' way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bench.ops_cases import bisection_inverse
from vflow.flows.couplings import mixlogistic
from vflow.models import ImageFlow
from vflow.train.trainer import Trainer

IMPORTANCE_SAMPLES = 128
BISECTED = "sample, 200 bisections"


@dataclass(frozen=True, kw_only=True)
class Workload:
    """One thing to time."""

    name: str
    images: int
    """Images that a call deals with."""
    call: Callable[[], Any]
    once: bool = False
    """Whether it is so long that one call is enough."""


def training(trainer: Trainer) -> Workload:
    """The whole training step: noise, forward, backward, clipping, Adam, average."""

    def step() -> None:
        trainer.model.train()
        trainer.take_step(lambda: False)

    return Workload(name="train", images=trainer.config.batch_size, call=step)


def inference(model: ImageFlow, batch_size: int, samples: int) -> Iterator[Workload]:
    """Sampling and likelihoods.

    Args:
        model: The model.
        batch_size: Images whose bound is taken at once.
        samples: Images that are drawn at once.
    """
    shape = (batch_size, *model.data_shape)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, device=model.device)
    yield Workload(name="sample", images=samples, call=lambda: model.sample(samples))
    yield Workload(name="bound", images=batch_size, call=lambda: model.bits_per_dim(images))
    yield Workload(
        name=f"bound, {IMPORTANCE_SAMPLES} samples",
        images=1,
        call=lambda: model.bits_per_dim(images[:1], samples=IMPORTANCE_SAMPLES),
        once=True,
    )


def bisected_sampling(model: ImageFlow, samples: int) -> Workload:
    """Sampling with the couplings inverted as in the authors' code, in eager mode."""

    def call() -> None:
        with _bisection():
            model.sample(samples)

    return Workload(name=BISECTED, images=samples, call=call, once=True)


@contextmanager
def _bisection() -> Iterator[None]:
    newton = mixlogistic.mixlogistic_inverse

    def bisect(y: Tensor, params: Tensor, squash: bool) -> tuple[Tensor, Tensor]:
        return bisection_inverse(y, params, squash), y.new_zeros(y.shape[0])

    mixlogistic.mixlogistic_inverse = bisect  # type: ignore[assignment]
    try:
        yield
    finally:
        mixlogistic.mixlogistic_inverse = newton
