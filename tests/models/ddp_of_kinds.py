"""Every kind of model under DistributedDataParallel; run by test_kinds_in_runs.py.

Each process takes its half of a batch; the averaged gradients must be those of the whole batch.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from tests import kinds
from vflow.models import make_model


def main() -> None:
    dist.init_process_group("gloo")
    rank, size = dist.get_rank(), dist.get_world_size()
    torch.set_num_threads(1)
    for name, config in kinds.MODELS.items():
        torch.manual_seed(0)
        model = make_model(config).double().train()
        data = kinds.data_of(model, 4 * size)
        model.initialize(data, synchronize=False)
        noise = kinds.noise_of(model, len(data))
        (-model(data, **noise).mean()).backward()
        expected = [parameter.grad.clone() for parameter in model.parameters()]
        model.zero_grad()
        rows = slice(4 * rank, 4 * (rank + 1))
        wrapped = DistributedDataParallel(model)
        (-wrapped(data[rows], **{k: v[rows] for k, v in noise.items()}).mean()).backward()
        for parameter, gradient in zip(model.parameters(), expected, strict=True):
            scale = gradient.abs().max().clamp_min(1.0).item()
            torch.testing.assert_close(parameter.grad, gradient, rtol=1e-8, atol=1e-8 * scale)
        if rank == 0:
            print(f"same: {name}", flush=True)
    dist.destroy_process_group()
