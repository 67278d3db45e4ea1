"""How much more memory a call needs at its peak than there was before it."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
RESET_PEAK = "5"


def peak_memory(call: Callable[[], Any], device: str) -> int | None:
    """Bytes at the peak of `call` above those before it: outputs, scratch and all.

    On the CPU it is resident memory, as Linux counts it; None where it does not.
    """
    gc.collect()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    try:
        # What the allocator keeps of earlier calls would serve this one without showing.
        ctypes.CDLL(None).malloc_trim(0)
        RESET.write_text(RESET_PEAK)
    except (OSError, AttributeError):
        return None
    before = _kilobytes("VmRSS")
    call()
    return max(0, _kilobytes("VmHWM") - before) * 1024


def _kilobytes(field: str) -> int:
    for line in STATUS.read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0])
    raise RuntimeError(f"{STATUS} has no {field}")
