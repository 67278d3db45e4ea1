"""What every launcher needs: the type of the arithmetic, the device, and how tensors lie."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
import triton
import triton.language as tl
from torch import Tensor

INT32_END = 2**31


def wide_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of the arithmetic and of log-determinants: float64 stays, all else is float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def real_type(dtype: torch.dtype) -> tl.dtype:
    """`wide_dtype` in Triton's words."""
    return tl.float64 if dtype == torch.float64 else tl.float32


def on_device(x: Tensor) -> AbstractContextManager:
    """Triton launches on the current device; make it that of x."""
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()


def power_of_two(n: int) -> int:
    """The least power of two that is not below n."""
    return triton.next_power_of_2(max(n, 1))


def as_positions(t: Tensor) -> Tensor:
    """See [B, ..., C] as [B, positions, C], without a copy where the strides allow it.

    Halves of checkerboard (every other column) and channel splits and expanded tensors are taken as
    they are. An image of 2^31 elements and more is made contiguous, because the kernels divide
    indices within an image in 32 bits, and only where it is not.
    """
    t = t.reshape(t.shape[0], t.numel() // max(t.shape[0] * t.shape[-1], 1), t.shape[-1])
    return t.contiguous() if t[0].numel() >= INT32_END else t


def lies_in_a_row(t: Tensor) -> bool:
    """Whether the elements of each image [B, positions, C] are side by side."""
    return t[0].is_contiguous()
