"""Which dtype the reference computes in."""

from __future__ import annotations

import torch


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of the arithmetic and of log-determinants: float64 stays, all else is float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32
