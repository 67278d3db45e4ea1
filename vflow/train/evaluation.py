"""The evaluation that runs along with training: a one-sample bound on the test images."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from vflow.models import ImageFlow
from vflow.runtime.distributed import Ranks
from vflow.runtime.randomness import Stream, generator


@torch.no_grad()
def mean_bits_per_dim(
    model: ImageFlow,
    images: Tensor,
    batch_size: int,
    seed: int,
    ranks: Ranks,
    stopping: Callable[[], bool],
) -> dict[str, float | None] | None:
    """Mean of -ELBO / (D ln 2), the batches shared out over the processes.

    Where the model trains by an estimate of the ELBO, it is the mean of these, which is unbiased.

    The noise of a batch is a function of the seed and the batch alone: successive evaluations
    differ by the model only, and by rounding only where the number of processes differs.

    Args:
        model: The model, in evaluation mode.
        images: uint8 [N, C, H, W], anywhere.
        batch_size: Images at once.
        seed: The run's seed.
        ranks: This process, among how many.
        stopping: Asked before each batch.

    Returns:
        Bits/dim as {"mean", "stderr"}, the standard error None of a single image; None in every
        process if `stopping` said so in any.
    """
    # The sum of bits/dim, that of their squares, stops.
    total = torch.zeros(3, dtype=torch.float64, device=model.device)
    for index, batch in enumerate(images.split(batch_size)):
        if index % ranks.size != ranks.rank:
            continue
        if stopping():
            total[2] = 1
            break
        noise = generator(model.device, seed, Stream.EVALUATION, index)
        eps = model.draw_training_noise(len(batch), noise)
        elbo = model(batch.to(model.device), **eps)
        bits = model.to_bits_per_dim(elbo).double()
        total[:2] += torch.stack([bits.sum(), bits.square().sum()])
    first, second, stops = ranks.sum(total).tolist()
    if stops:
        return None
    count, mean = len(images), first / len(images)
    if count == 1:
        return {"mean": mean, "stderr": None}
    variance = max(0.0, second / count - mean**2) * count / (count - 1)
    return {"mean": mean, "stderr": math.sqrt(variance / count)}
