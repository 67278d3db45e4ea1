"""What one of two processes does: run by test_initialization.py.

Prints one JSON line a process: case -> whether the processes' parameters agree, or an error.
"""

from __future__ import annotations

import json
from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import vflow
from vflow.models import Glow, GlowConfig


def images(rank: int, n: int = 4, seed: int = 0) -> Tensor:
    source = torch.Generator().manual_seed(10 * seed + rank)
    return (torch.rand(n, 3, 16, 16, generator=source) * 100 + 100 * rank).to(torch.uint8)


def agree(model: nn.Module) -> bool:
    mine = torch.cat([p.detach().reshape(-1) for p in model.parameters()])
    first = mine.clone()
    dist.broadcast(first, src=0)
    equal = torch.tensor([float(torch.equal(first, mine))])
    dist.all_reduce(equal, dist.ReduceOp.MIN)
    return bool(equal.item())


def fresh(seed: int = 0) -> vflow.models.ImageFlow:
    torch.manual_seed(seed)
    return vflow.create_model("flowpp-tiny", filters=4, components=2)


def data_parallel(rank: int) -> bool:
    model = fresh()
    wrapped = DistributedDataParallel(model)
    optimizer = torch.optim.Adam(wrapped.parameters(), 1e-3)
    found = []
    for step in range(3):
        loss = -wrapped(images(rank, seed=step)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(agree(model))
    assert model.initialized
    return all(found)


def bare(rank: int) -> bool:
    model = fresh(seed=rank)  # parameters that differ to begin with
    model.elbo(images(rank))
    return agree(model)


def by_hand(rank: int) -> bool:
    model = fresh()
    model.initialize(images(rank))
    return agree(model) and model.initialized


def as_one_alone(rank: int) -> bool:
    """The first process's parameters are those it would have without the other."""
    models = fresh(), fresh()
    for model, together in zip(models, (True, False), strict=True):
        source = torch.Generator().manual_seed(3)
        model.initialize(images(0), generator=source, synchronize=together)
    pairs = zip(models[0].parameters(), models[1].parameters(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def alone(rank: int) -> bool:
    model = fresh()
    model.initialize(images(rank), synchronize=False)
    return agree(model)


def one_image_second(rank: int) -> bool:
    model = fresh()
    DistributedDataParallel(model)(images(rank, 4 if rank == 0 else 1))
    return agree(model)


def one_image_first(rank: int) -> bool:
    fresh().elbo(images(rank, 1 if rank == 0 else 4))
    return False


def contiguous(model: nn.Module) -> nn.Module:
    """What FSDP asks of the parameters."""
    for parameter in model.parameters():
        parameter.data = parameter.data.contiguous()
    return model


def sharded(rank: int) -> bool:
    model = contiguous(fresh())
    fully_shard(model)
    model(images(rank))
    return False


def sharded_afterwards(rank: int) -> bool:
    model = fresh()
    model.initialize(images(rank))
    fully_shard(contiguous(model))
    model(images(rank)).mean().backward()
    return True


def loaded_by_the_first(rank: int) -> bool:
    """What DistributedDataParallel hands from rank 0 to the others is not initialised again."""
    model = fresh()
    if rank == 0:
        model.initialize(images(0), synchronize=False)
    before = [p.clone() for p in model.parameters()] if rank == 0 else []
    wrapped = DistributedDataParallel(model)
    wrapped(images(rank, seed=1))
    kept = all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=False))
    return agree(model) and kept


def vectors(rank: int) -> bool:
    torch.manual_seed(0)
    model = Glow(GlowConfig(hidden=4))
    model.initialize(torch.randn(8, 2, generator=torch.Generator().manual_seed(rank)) + rank)
    return agree(model)


CASES: list[Callable[[int], bool]] = [
    data_parallel,
    bare,
    by_hand,
    as_one_alone,
    alone,
    one_image_second,
    one_image_first,
    sharded,
    sharded_afterwards,
    loaded_by_the_first,
    vectors,
]


def main() -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    found: dict[str, object] = {}
    for case in CASES:
        try:
            found[case.__name__] = case(rank)
        except ValueError as error:
            found[case.__name__] = str(error)
        dist.barrier()
    print(json.dumps(found))
    dist.destroy_process_group()
