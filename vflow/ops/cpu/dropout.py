"""Dropout on the native CPU library."""

from __future__ import annotations

import torch
from torch import Tensor

from vflow.ops.native import call


def dropout(x: Tensor, seed: Tensor, dropout: float) -> Tensor:
    """See `vflow.ops.dropout`."""
    x, seed = x.contiguous(), seed.contiguous()
    channels = x.shape[-1]
    y = torch.empty_like(x)
    call(
        "vflow_cpu_dropout",
        x.dtype,
        x.data_ptr(),
        seed.data_ptr(),
        y.data_ptr(),
        x.numel() // channels,
        channels,
        dropout,
    )
    return y
