"""The mixture-of-logistics transform, its gradient and its inverse on the native CUDA library."""

from __future__ import annotations

import torch
from torch import Tensor

from vflow.ops.checks import logdet_dtype
from vflow.ops.native import Rows, call_cuda, workspace


def mixlogistic(x: Tensor, params: Tensor, *, squash: bool) -> tuple[Tensor, Tensor]:
    """See `vflow.ops.mixlogistic`."""
    return _map("vflow_cuda_mixlogistic", x, params, squash)


def mixlogistic_inverse(y: Tensor, params: Tensor, *, squash: bool) -> tuple[Tensor, Tensor]:
    """See `vflow.ops.mixlogistic_inverse`."""
    return _map("vflow_cuda_mixlogistic_inverse", y, params, squash)


def mixlogistic_backward(
    grad_y: Tensor, grad_logdet: Tensor, x: Tensor, params: Tensor, *, squash: bool
) -> tuple[Tensor, Tensor]:
    """Gradients of x and params, contiguous, recomputed from the inputs alone."""
    params, grad_logdet = params.contiguous(), grad_logdet.contiguous()
    grad_x = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    grad_params = torch.empty_like(params)
    x_rows, grad_y_rows = Rows(x), Rows(grad_y)
    call_cuda(
        "vflow_cuda_mixlogistic_backward",
        x,
        *grad_y_rows.arguments,
        grad_logdet.data_ptr(),
        *x_rows.arguments,
        params.data_ptr(),
        grad_x.data_ptr(),
        grad_params.data_ptr(),
        *_sizes(x, params),
        squash,
    )
    return grad_x, grad_params


def _map(function: str, x: Tensor, params: Tensor, squash: bool) -> tuple[Tensor, Tensor]:
    params = params.contiguous()
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    logdet = torch.empty(x.shape[0], dtype=logdet_dtype(x.dtype), device=x.device)
    rows, sizes = Rows(x), _sizes(x, params)
    room = workspace(function, x, *sizes)
    call_cuda(
        function,
        x,
        *rows.arguments,
        params.data_ptr(),
        y.data_ptr(),
        logdet.data_ptr(),
        *sizes,
        squash,
        room.data_ptr(),
        room.numel(),
    )
    return y, logdet


def _sizes(x: Tensor, params: Tensor) -> tuple[int, int, int]:
    """Batch, elements of an image, components."""
    batch = x.shape[0]
    return batch, x.numel() // batch if batch else 0, (params.shape[-1] - 2) // 3
