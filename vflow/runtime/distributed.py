"""The processes of a run, as torchrun starts them, or the only one."""

from __future__ import annotations

import hashlib
import os
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import count

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous

from vflow.runtime.console import EXIT_ERROR, RunStopped, linger, speak_for_all

LONGEST_PAUSE = 0.5
"""Seconds between two looks at whether the others have come."""

LONGEST_RELEASE = 10.0
"""Seconds that the process group's threads are given to let go of the last tensors."""

LONGEST_FAREWELL = 10.0
"""Seconds that the first process waits for the others to leave."""


class Shared:
    """The store that the processes share, and how often they have met over it."""

    def __init__(self) -> None:
        self.store: dist.Store | None = None
        self.turns = count()


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """Which process this is, and of how many."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = field(default=0, compare=False)
    """Processes on this machine, 0 where nobody says."""
    _shared: Shared = field(default_factory=Shared, init=False, repr=False, compare=False)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Ranks:
        """Read what torchrun sets: RANK, WORLD_SIZE, LOCAL_RANK; without them, one process.

        A WORLD_SIZE of 1 is one process, whatever else is set.

        Raises:
            ValueError: If one of them is missing or no number, or RANK is not below WORLD_SIZE.
        """

        def number(name: str, default: str = "") -> int:
            text = environment.get(name, default)
            if not text.isdecimal():
                raise ValueError(f"{name} must be a number, as torchrun sets it, got {text!r}")
            return int(text)

        size = number("WORLD_SIZE", "1")
        if size < 1:
            raise ValueError(f"WORLD_SIZE must be at least 1, got {size}")
        if size == 1:
            return cls()
        rank = number("RANK")
        if rank >= size:
            raise ValueError(f"RANK must be below WORLD_SIZE {size}, got {rank}")
        local_rank = number("LOCAL_RANK")
        local_size = number("LOCAL_WORLD_SIZE", "0")
        return cls(rank=rank, size=size, local_rank=local_rank, local_size=local_size)

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
        # Every process of a machine says the same.
        processes = max(self.local_size, self.local_rank + 1)
        if processes > torch.cuda.device_count():
            raise ValueError(
                f"processes must be at most the {torch.cuda.device_count()} CUDA devices here, "
                f"got {processes}"
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
        store, _, _ = next(rendezvous("env://"))
        self._shared.store = dist.PrefixStore("vflow", store)
        dist.init_process_group(
            "nccl" if cuda else "gloo",
            store=dist.PrefixStore("group", store),
            rank=self.rank,
            world_size=self.size,
            device_id=device if cuda else None,
        )
        try:
            yield
        except Exception:
            raise  # the others may be in the middle of a collective: leave that to torchrun
        except BaseException:
            self._leave_group()
            raise
        self._leave_group()

    @contextmanager
    def together(self, device: torch.device) -> Iterator[None]:
        """Leave the block together, however long one takes, as one that downloads the data.

        Where processes raise, the first to do so tells its error, and the others exit with code 1.
        """
        error: Exception | None = None
        try:
            yield
        except Exception as caught:
            error = caught
        if self.size == 1:
            if error is not None:
                raise error
            return
        failures, is_first = self._meet(failed=error is not None)
        if not failures:
            return
        first = error if is_first else None
        if first is not None:
            speak_for_all(first)
        self._say_farewell()
        if first is not None:
            raise first
        linger()
        raise SystemExit(EXIT_ERROR)

    def _meet(self, failed: bool) -> tuple[int, bool]:
        """Wait for all processes, without the limit of time that a collective has.

        Returns:
            How many have failed, and whether this one was the first.
        """
        store, turn = self._store, next(self._shared.turns)
        number = store.add(f"{turn}/failed", 1) if failed else 0
        if store.add(f"{turn}/came", 1) == self.size:
            store.set(f"{turn}/all", "")
        pause = 0.001
        while not store.check([f"{turn}/all"]):
            time.sleep(pause)  # here, and not in the store, so that Ctrl-C gets through
            pause = min(2 * pause, LONGEST_PAUSE)
        return store.add(f"{turn}/failed", 0), number == 1

    def _leave_group(self) -> None:
        """Leave the process group, once its threads have let go of what they were lent.

        A thread of gloo lets go of a collective's tensors some time after the collective is done,
        and takes the interpreter's lock to do so. Before Python 3.14, one that asks for the lock
        while the interpreter ends is ended itself, in C++ that cannot be left that way: the process
        would abort. The group's threads outlive the group.
        """
        deadline = time.monotonic() + LONGEST_RELEASE
        while any(lent() is not None for lent in _lent) and time.monotonic() < deadline:
            time.sleep(0.001)
        dist.destroy_process_group()
        self._say_farewell()

    def _say_farewell(self) -> None:
        """Leave the store; the first process, which keeps it where no torchrun does, as the last.

        What others ask of it without an answer would be an error of theirs.
        """
        deadline = time.monotonic() + LONGEST_FAREWELL
        with suppress(dist.DistError):
            self._store.set(f"left/{self.rank}", "")
            everyone = [f"left/{rank}" for rank in range(self.size)]
            while self.is_main and not self._store.check(everyone):
                if time.monotonic() > deadline:
                    break
                time.sleep(0.001)

    @property
    def _store(self) -> dist.Store:
        assert self._shared.store is not None, "inside of group()"
        return self._shared.store

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over the processes, in place, bit for bit the same in all of them."""
        if self.size > 1:
            _collective(dist.all_reduce, tensor)
        return tensor

    def from_main(self, number: int, device: torch.device) -> int:
        """The first process's number, in every process."""
        if self.size == 1:
            return number
        tensor = torch.tensor([number], device=device)
        broadcast(tensor)
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
        _collective(lambda *views: dist.all_gather(list(views[1:]), views[0]), mine, *all_ranks)
        differing = [rank for rank, other in enumerate(all_ranks) if other.item() != all_ranks[0]]
        if differing:
            raise RunStopped(f"{what} must be the same in all processes, but {differing} differ")


def broadcast(tensor: Tensor) -> None:
    """Give a tensor of every process of the group the first one's values, in place."""
    _collective(partial(dist.broadcast, src=0), tensor)


_lent: list[weakref.ref[Tensor]] = []
"""What the group's threads may still hold of the tensors in its collectives."""


def _collective(run: Callable[..., object], *tensors: Tensor) -> None:
    """Run a collective on tensors, and remember what the group's threads were lent."""
    # Tensors of their own on the same values: that they are gone says that nobody holds them.
    views = [tensor.detach() for tensor in tensors]
    _lent[:] = [lent for lent in _lent if lent() is not None]
    _lent.extend(map(weakref.ref, views))
    run(*views)
