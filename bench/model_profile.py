"""Where the time of a call goes, by PyTorch's profiler."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.autograd import DeviceType
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
    found = profiler.key_averages()
    if device == "cuda":  # kernels, which are otherwise counted again with what launched them
        found = [e for e in found if e.device_type == DeviceType.CUDA and not e.is_user_annotation]
    events = sorted(found, key=lambda e: getattr(e, own), reverse=True)
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
