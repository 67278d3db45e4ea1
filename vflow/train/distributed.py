"""The processes of a run, as torchrun starts them, or the only one."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from vflow.console import EXIT_ERROR, RunStopped


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """Which process this is, and of how many."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Ranks:
        """Read what torchrun sets: RANK, WORLD_SIZE, LOCAL_RANK; without them, one process.

        Raises:
            ValueError: If one of them is no number.
        """
        if "WORLD_SIZE" not in environment:
            return cls()
        values = {}
        for field, name in (("rank", "RANK"), ("size", "WORLD_SIZE"), ("local_rank", "LOCAL_RANK")):
            text = environment.get(name, "")
            if not text.isdigit():
                raise ValueError(f"{name} must be a number, as torchrun sets it, got {text!r}")
            values[field] = int(text)
        return cls(**values)

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.rank == 0

    def share_of(self, batch_size: int, parts: int = 1) -> slice:
        """This process's rows of a global batch.

        Args:
            batch_size: Images in it.
            parts: Parts that a process takes its share in.

        Raises:
            ValueError: If the processes cannot share it evenly, each in that many parts.
        """
        if batch_size % (self.size * parts):
            among = f"the {self.size} processes" + (f" times accumulate {parts}" * (parts > 1))
            raise ValueError(f"batch_size must be divisible by {among}, got {batch_size}")
        share = batch_size // self.size
        return slice(self.rank * share, (self.rank + 1) * share)

    def device(self, name: str) -> torch.device:
        """This process's device, for "auto", "cpu" or "cuda".

        Raises:
            ValueError: If there is no CUDA device for it.
        """
        if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
            return torch.device("cpu")
        if not torch.cuda.is_available():
            raise ValueError("device must be cpu or auto where there is no CUDA, got 'cuda'")
        if self.local_rank >= torch.cuda.device_count():
            raise ValueError(
                f"processes must be at most the {torch.cuda.device_count()} CUDA devices here, "
                f"got one numbered {self.local_rank}"
            )
        torch.cuda.set_device(self.local_rank)
        return torch.device("cuda", self.local_rank)

    @contextmanager
    def group(self, device: torch.device) -> Iterator[None]:
        """The process group, NCCL for CUDA and gloo for the CPU; none for a single process."""
        if self.size == 1:
            yield
            return
        cuda = device.type == "cuda"
        dist.init_process_group("nccl" if cuda else "gloo", device_id=device if cuda else None)
        try:
            yield
        except Exception:
            raise  # the others may be in the middle of a collective: leave that to torchrun
        except BaseException:
            dist.destroy_process_group()
            raise
        dist.destroy_process_group()

    @contextmanager
    def together(self, device: torch.device) -> Iterator[None]:
        """Leave the block together: where one process raises, the others exit with code 1."""
        error: Exception | None = None
        try:
            yield
        except Exception as caught:
            error = caught
        failures = self.sum(torch.tensor([float(error is not None)], device=device))
        if error is not None:
            raise error
        if failures.item() > 0:
            raise SystemExit(EXIT_ERROR)

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over the processes, in place, bit for bit the same in all of them."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def from_main(self, number: int, device: torch.device) -> int:
        """The first process's number, in every process."""
        if self.size == 1:
            return number
        tensor = torch.tensor([number], device=device)
        dist.broadcast(tensor, src=0)
        return int(tensor.item())

    def require_same(self, module: nn.Module, what: str) -> None:
        """Compare a module's parameters over the processes, bit for bit.

        Raises:
            RunStopped: In every process, if they differ.
        """
        if self.size == 1:
            return
        digest = hashlib.sha256()
        for parameter in module.parameters():
            values = parameter.detach().cpu().contiguous()
            digest.update(values.view(torch.uint8).numpy().tobytes())
        number = int.from_bytes(digest.digest()[:8], "little", signed=True)
        device = next(module.parameters()).device
        mine = torch.tensor([number], device=device)
        all_ranks = [torch.empty_like(mine) for _ in range(self.size)]
        dist.all_gather(all_ranks, mine)
        differing = [rank for rank, other in enumerate(all_ranks) if other.item() != all_ranks[0]]
        if differing:
            raise RunStopped(f"{what} must be the same in all processes, but {differing} differ")
