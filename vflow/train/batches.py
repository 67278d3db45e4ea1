"""The images of each step, on their way to the device while the step before is computed."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

PINNED_BUFFERS = 2
"""One that is copied from while the other is filled."""


class Batches:
    """Takes the images of a step, mirrored where asked for.

    Images that lie on the device are taken as they are asked for. Others, in a file mapped to
    memory or too many for the GPU, are gathered by a thread, one step ahead. For a GPU it gathers
    them into pinned memory, from which they are copied without the host waiting; nothing else is
    ever pinned.

    Args:
        images: uint8 [N, C, H, W], strided as they may be.
        indices: Step -> int64 [B], which of them.
        flips: Step -> bool [B], which of these to mirror left to right; None for none.
        device: Where the batches go.
    """

    def __init__(
        self,
        images: Tensor,
        indices: Callable[[int], Tensor],
        flips: Callable[[int], Tensor] | None,
        device: torch.device,
    ) -> None:
        self._images, self._indices, self._flips, self._device = images, indices, flips, device
        self._ahead: ThreadPoolExecutor | None = None
        if images.device.type != device.type or not images.is_contiguous():
            self._ahead = ThreadPoolExecutor(1, thread_name_prefix="vflow-batches")
        self._pending: tuple[int, Future[Tensor]] | None = None
        self._buffers: list[Tensor] = []
        self._copied: list[torch.cuda.Event] = []
        self._turn = 0

    def take(self, step: int) -> Tensor:
        """The images of a step, uint8 [B, C, H, W], contiguous, on the device."""
        if self._ahead is None:
            return self.rows(self._indices(step), self._flips(step) if self._flips else None)
        if self._pending is None or self._pending[0] != step:
            self._pending = step, self._ahead.submit(self._gather, step)
        rows = self._pending[1].result()
        if self._device.type == "cuda":
            # Read before the next one is asked for, which takes another buffer.
            turn = self._turn
            rows = rows.to(self._device, non_blocking=True)
            self._copied[turn].record()
        self._pending = step + 1, self._ahead.submit(self._gather, step + 1)
        return rows

    def rows(self, indices: Tensor, flips: Tensor | None = None) -> Tensor:
        """Some of the images, contiguous, where they lie.

        Args:
            indices: int64 [B].
            flips: bool [B], which to mirror; None for none.
        """
        where = self._images.device
        rows = self._images[indices.to(where, non_blocking=True)].contiguous()
        if flips is None:
            return rows
        mirrored = flips.to(where, non_blocking=True)[:, None, None, None]
        return torch.where(mirrored, rows.flip(-1), rows)

    def close(self) -> None:
        """End the thread."""
        if self._ahead is not None:
            self._ahead.shutdown(cancel_futures=True)

    def _gather(self, step: int) -> Tensor:
        """In the thread: the rows, in pinned memory for a GPU."""
        rows = self.rows(self._indices(step), self._flips(step) if self._flips else None)
        if self._device.type != "cuda":
            return rows
        return self._next_buffer(rows).copy_(rows)

    def _next_buffer(self, like: Tensor) -> Tensor:
        """A pinned buffer that the GPU has read."""
        if len(self._buffers) < PINNED_BUFFERS:
            self._turn = len(self._buffers)
            self._buffers.append(torch.empty_like(like, pin_memory=True))
            self._copied.append(torch.cuda.Event())
        else:
            self._turn = (self._turn + 1) % PINNED_BUFFERS
            self._copied[self._turn].synchronize()
        return self._buffers[self._turn]
