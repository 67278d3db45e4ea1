"""Dropout on the native CUDA library."""

from __future__ import annotations

import torch
from torch import Tensor

from vflow.ops.native import call_cuda


def dropout(x: Tensor, seed: Tensor, dropout: float) -> Tensor:
    """See `vflow.ops.dropout`. The seed is read on the device."""
    x, seed = x.contiguous(), seed.contiguous()
    channels = x.shape[-1]
    y = torch.empty_like(x)
    call_cuda(
        "vflow_cuda_dropout",
        x,
        x.data_ptr(),
        seed.data_ptr(),
        y.data_ptr(),
        x.numel() // channels,
        channels,
        dropout,
    )
    return y
