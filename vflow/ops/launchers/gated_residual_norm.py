"""Gated residual connection and LayerNorm, and its gradient, on a native library."""

from __future__ import annotations

import torch
from torch import Tensor

from vflow.ops.launchers.call import Call
from vflow.ops.reference.precision import compute_dtype


def gated_residual_norm(call: Call, x: Tensor, ab: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """See `vflow.ops.gated_residual_norm`."""
    stored, real = _stored_dtype(x, ab), compute_dtype(x.dtype)
    wide_x, ab = _contiguous(x, stored), _contiguous(ab, stored)
    weight, bias = _contiguous(weight, real), _contiguous(bias, real)
    features = x.shape[-1]
    y = torch.empty_like(wide_x)
    call(
        "gated_residual_norm",
        wide_x,
        wide_x.data_ptr(),
        ab.data_ptr(),
        weight.data_ptr(),
        bias.data_ptr(),
        y.data_ptr(),
        x.numel() // features,
        features,
    )
    return _cast(y, x.dtype)


def gated_residual_norm_backward(
    call: Call, grad: Tensor, x: Tensor, ab: Tensor, weight: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of the four inputs, contiguous, recomputed from the inputs alone."""
    stored, real = _stored_dtype(x, ab), compute_dtype(x.dtype)
    grad, wide_x = _contiguous(grad, stored), _contiguous(x, stored)
    wide_ab, wide_weight = _contiguous(ab, stored), _contiguous(weight, real)
    grad_x, grad_ab = torch.empty_like(wide_x), torch.empty_like(wide_ab)
    features = x.shape[-1]
    grad_weight_bias = wide_weight.new_empty(2, features)
    call(
        "gated_residual_norm_backward",
        wide_x,
        grad.data_ptr(),
        wide_x.data_ptr(),
        wide_ab.data_ptr(),
        wide_weight.data_ptr(),
        grad_x.data_ptr(),
        grad_ab.data_ptr(),
        grad_weight_bias.data_ptr(),
        x.numel() // features,
        features,
    )
    grad_weight, grad_bias = grad_weight_bias.unbind()
    return (
        _cast(grad_x, x.dtype),
        _cast(grad_ab, ab.dtype),
        _cast(grad_weight, weight.dtype),
        _cast(grad_bias, bias.dtype),
    )


def _stored_dtype(x: Tensor, ab: Tensor) -> torch.dtype:
    """The dtype in which the library is to read x and ab: theirs, or what x is computed in."""
    return x.dtype if x.dtype == ab.dtype else compute_dtype(x.dtype)


def _contiguous(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return _cast(tensor, dtype).contiguous()


def _cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """tensor.to(dtype), a microsecond sooner where there is nothing to do."""
    return tensor if tensor.dtype == dtype else tensor.to(dtype)
