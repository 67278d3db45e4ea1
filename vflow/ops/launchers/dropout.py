"""Dropout on a native library."""

from __future__ import annotations

import torch
from torch import Tensor

from vflow.ops.launchers.call import Call


def dropout(call: Call, x: Tensor, seed: Tensor, dropout: float) -> Tensor:
    """See `vflow.ops.dropout`. The seed is read on its device."""
    x, seed = x.contiguous(), seed.contiguous()
    channels = x.shape[-1]
    y = torch.empty_like(x)
    call(
        "dropout",
        x,
        x.data_ptr(),
        seed.data_ptr(),
        y.data_ptr(),
        x.numel() // channels,
        channels,
        dropout,
    )
    return y
