"""How much more memory a call needs at its peak than there was before it."""

from __future__ import annotations

import ctypes
import gc
import json
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

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


def peak_tensors(call: Callable[[], Any]) -> int:
    """Bytes of a call's tensors at their peak on the CPU, as PyTorch counts them.

    Unlike resident memory, nothing of what the C library keeps of freed tensors, or of scratch.
    """
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        call()
    with TemporaryDirectory() as folder:
        path = Path(folder, "trace.json")
        seen.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    told = [e["args"] | {"ts": e["ts"]} for e in events if e.get("name") == "[memory]"]
    told.sort(key=lambda event: event["ts"])
    if not told:
        return 0
    before = told[0]["Total Allocated"] - told[0]["Bytes"]
    return max(0, *(event["Total Allocated"] - before for event in told))


def _kilobytes(field: str) -> int:
    for line in STATUS.read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0])
    raise RuntimeError(f"{STATUS} has no {field}")
