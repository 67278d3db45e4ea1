"""The mixture-of-logistics transform, its gradient and its inverse on a native library."""

from __future__ import annotations

import torch
from torch import Tensor

from vflow.ops.checks import logdet_dtype
from vflow.ops.launchers.call import Call, Rows, empty_contiguous


def mixlogistic(call: Call, x: Tensor, params: Tensor, squash: bool) -> tuple[Tensor, Tensor]:
    """See `vflow.ops.mixlogistic`."""
    return _map("mixlogistic", call, x, params, squash)


def mixlogistic_inverse(
    call: Call, y: Tensor, params: Tensor, squash: bool
) -> tuple[Tensor, Tensor]:
    """See `vflow.ops.mixlogistic_inverse`."""
    return _map("mixlogistic_inverse", call, y, params, squash)


def mixlogistic_backward(
    call: Call, grad_y: Tensor, grad_logdet: Tensor, x: Tensor, params: Tensor, squash: bool
) -> tuple[Tensor, Tensor]:
    """Gradients of x and params, contiguous, recomputed from the inputs alone."""
    params, grad_logdet = params.contiguous(), grad_logdet.contiguous()
    grad_x, grad_params = empty_contiguous(x), torch.empty_like(params)
    x_rows, grad_y_rows = Rows(x), Rows(grad_y)
    call(
        "mixlogistic_backward",
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


def _map(
    function: str, call: Call, x: Tensor, params: Tensor, squash: bool
) -> tuple[Tensor, Tensor]:
    params, rows = params.contiguous(), Rows(x)
    y, logdet = empty_contiguous(x), x.new_empty(x.shape[0], dtype=logdet_dtype(x.dtype))
    call(
        function,
        x,
        *rows.arguments,
        params.data_ptr(),
        y.data_ptr(),
        logdet.data_ptr(),
        *_sizes(x, params),
        squash,
    )
    return y, logdet


def _sizes(x: Tensor, params: Tensor) -> tuple[int, int, int]:
    """Batch, elements of an image, components."""
    batch = x.shape[0]
    return batch, x.numel() // batch if batch else 0, (params.shape[-1] - 2) // 3
