"""Which dtype the reference computes in, and PyTorch's autocast."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of the arithmetic and of log-determinants: float64 stays, all else is float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def autocast(device_type: str, dtype: torch.dtype | None) -> AbstractContextManager:
    """Autocast to a dtype, or none of it with None; "meta", where nothing is computed, has none."""
    if device_type == "meta":
        return nullcontext()
    return torch.autocast(device_type, dtype=dtype, enabled=dtype is not None)
