"""Where the time of a call goes, by PyTorch's profiler."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

LEAST_SHARE = 0.01


def profiled(call: Callable[[], Any], device: str) -> list[dict[str, Any]]:
    """The operations that take at least a hundredth of the time themselves, longest first."""
    activities = [ProfilerActivity.CPU]
    if device == "cuda":
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities) as profiler:
        call()
        if device == "cuda":
            torch.cuda.synchronize()
    own = "self_device_time_total" if device == "cuda" else "self_cpu_time_total"
    events = sorted(profiler.key_averages(), key=lambda e: getattr(e, own), reverse=True)
    total = sum(getattr(event, own) for event in events)
    return [
        {
            "operation": event.key,
            "share": getattr(event, own) / total,
            "milliseconds": getattr(event, own) / 1e3,
            "calls": event.count,
        }
        for event in events
        if getattr(event, own) >= LEAST_SHARE * total
    ]
