"""Gated residual connection and LayerNorm, and its gradient, on the native CUDA library."""

from __future__ import annotations

import torch
from torch import Tensor

from vflow.ops.native import call_cuda, workspace
from vflow.ops.reference.precision import compute_dtype


def gated_residual_norm(x: Tensor, ab: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """See `vflow.ops.gated_residual_norm`."""
    dtype, real = _stored_dtype(x, ab), compute_dtype(x.dtype)
    wide_x, ab = _contiguous(x, dtype), _contiguous(ab, dtype)
    weight, bias = _contiguous(weight, real), _contiguous(bias, real)
    y = torch.empty(x.shape, dtype=dtype, device=x.device)
    call_cuda(
        "vflow_cuda_gated_residual_norm",
        wide_x,
        wide_x.data_ptr(),
        ab.data_ptr(),
        weight.data_ptr(),
        bias.data_ptr(),
        y.data_ptr(),
        *_sizes(x),
    )
    return y.to(x.dtype)


def gated_residual_norm_backward(
    grad: Tensor, x: Tensor, ab: Tensor, weight: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of the four inputs, contiguous, recomputed from the inputs alone."""
    dtype, real = _stored_dtype(x, ab), compute_dtype(x.dtype)
    wide_grad, wide_x = _contiguous(grad, dtype), _contiguous(x, dtype)
    wide_ab, wide_weight = _contiguous(ab, dtype), _contiguous(weight, real)
    grad_x = torch.empty(x.shape, dtype=dtype, device=x.device)
    grad_ab = torch.empty(ab.shape, dtype=dtype, device=x.device)
    sums = torch.empty(2, *weight.shape, dtype=real, device=x.device)
    function, sizes = "vflow_cuda_gated_residual_norm_backward", _sizes(x)
    room = workspace(function, wide_x, *sizes)
    call_cuda(
        function,
        wide_x,
        wide_grad.data_ptr(),
        wide_x.data_ptr(),
        wide_ab.data_ptr(),
        wide_weight.data_ptr(),
        grad_x.data_ptr(),
        grad_ab.data_ptr(),
        sums.data_ptr(),
        *sizes,
        room.data_ptr(),
        room.numel(),
    )
    return (
        grad_x.to(x.dtype),
        grad_ab.to(ab.dtype),
        sums[0].to(weight.dtype),
        sums[1].to(bias.dtype),
    )


def _stored_dtype(x: Tensor, ab: Tensor) -> torch.dtype:
    """The dtype in which the library is to read x and ab: theirs, or the wider if they differ."""
    return x.dtype if x.dtype == ab.dtype else compute_dtype(x.dtype)


def _contiguous(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return (tensor if tensor.dtype == dtype else tensor.to(dtype)).contiguous()


def _sizes(x: Tensor) -> tuple[int, int]:
    """Rows, features."""
    features = x.shape[-1]
    return x.numel() // features, features
