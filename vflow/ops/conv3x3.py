"""3x3 convolution of NHWC activations."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from vflow.ops import backend, exact, native
from vflow.ops.backend import Implementation
from vflow.ops.checks import check_tensor
from vflow.ops.launchers import conv3x3 as launchers
from vflow.ops.launchers.call import call_cpu
from vflow.ops.library import Operation
from vflow.ops.reference import composition
from vflow.ops.reference import conv3x3 as reference

TILE = 4
LEAST_CHANNELS = 16
"""Fewer do not repay the transforms of the tiles."""
_DTYPES = (torch.float32, torch.bfloat16)
_MISSING = native.fused_missing()
_HAS_MATRIX_UNIT = bool(torch.cpu._is_amx_tile_supported())


def conv3x3(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """3x3 convolution with zeros around: [B, H, W, in] -> [B, H, W, out].

    On a CPU, float32 goes by tiles of 4x4 outputs in 36 products a pair of channels instead of 144
    (Winograd, 1980; Lavin & Gray, 2016), forward and both gradients; its error is two to four
    times that of the plain sum. So does bfloat16, computed in float32, where the processor has no
    matrix unit for it (AMX). A NaN or an infinity spoils the tiles it is in, and not its neighbours
    alone. Everything else is PyTorch's own convolution.

    Args:
        x: Input [B, H, W, in]. Under autocast it is cast as PyTorch's convolution would.
        weight: [out, in, 3, 3]. In `torch.channels_last` no pass makes a copy of it.
        bias: [out].

    Returns:
        [B, H, W, out] in the dtype of x, or autocast's. Differentiable.

    Raises:
        ValueError: If x, weight and bias are not floating tensors of these shapes and, without
            autocast, of one dtype.
    """
    _check(x, weight, bias)
    if backend.is_exact():
        return exact.convolution(x, weight, bias)
    dtype = _working_dtype(x)
    if _goes_by_tiles(x, weight, dtype):
        return _conv3x3(x.to(dtype), weight, bias)
    return reference.convolve(x, weight, bias)


def _check(x: Tensor, weight: Tensor, bias: Tensor) -> None:
    check_tensor("x", x)
    if x.ndim != 4:
        raise ValueError(f"x must have shape [B, H, W, in], got {tuple(x.shape)}")
    casts = torch.is_autocast_enabled(x.device.type) if x.device.type in ("cpu", "cuda") else False
    for name, tensor in (("weight", weight), ("bias", bias)):
        check_tensor(name, tensor)
        if tensor.dtype != x.dtype and not casts:
            raise ValueError(f"{name} must have dtype {x.dtype}, that of x, got {tensor.dtype}")
    inputs = x.shape[-1]
    if weight.ndim != 4 or weight.shape[1:] != (inputs, 3, 3):
        raise ValueError(
            f"weight must have shape [out, in, 3, 3] = [out, {inputs}, 3, 3], "
            f"got {tuple(weight.shape)}"
        )
    if bias.shape != weight.shape[:1]:
        raise ValueError(f"bias must have shape [out] = [{len(weight)}], got {tuple(bias.shape)}")


def _working_dtype(x: Tensor) -> torch.dtype:
    if x.dtype == torch.float64:  # which autocast leaves alone
        return x.dtype
    if x.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
        return torch.get_autocast_dtype("cpu")
    return x.dtype


def _goes_by_tiles(x: Tensor, weight: Tensor, dtype: torch.dtype) -> bool:
    if x.device.type != "cpu" or dtype not in _DTYPES:
        return False
    if _MISSING is not None or (dtype == torch.bfloat16 and _HAS_MATRIX_UNIT):
        return False
    if min(weight.shape[:2]) < LEAST_CHANNELS or backend.named() not in (None, "cpu"):
        return False
    height, width = x.shape[1:3]
    tiled = (height + -height % TILE) * (width + -width % TILE)
    return tiled <= 2 * height * width  # else most of what is computed is thrown away


_conv3x3_backward = Operation(
    "conv3x3_backward",
    "Tensor grad, Tensor x, Tensor weight -> (Tensor, Tensor, Tensor)",
    fake=lambda grad, x, weight: (
        x.new_empty(x.shape),
        torch.empty_like(weight, memory_format=torch.channels_last),
        weight.new_empty(len(weight)),
    ),
    reference=Implementation(launch=reference.conv3x3_backward),
    cpu=Implementation(
        launch=partial(launchers.conv3x3_backward, call_cpu),
        dtypes=_DTYPES,
        missing=_MISSING,
    ),
)


def _gradients(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor, chosen: str
) -> tuple[Tensor, Tensor, Tensor]:
    gradients: tuple[Tensor, Tensor, Tensor] = _conv3x3_backward.run(grad, x, weight, chosen)
    return gradients


_conv3x3 = Operation(
    "conv3x3",
    "Tensor x, Tensor weight, Tensor bias -> Tensor",
    fake=lambda x, weight, bias: x.new_empty(*x.shape[:-1], len(weight)),
    composition=composition.conv3x3,
    backward=_gradients,
    reference=Implementation(launch=reference.conv3x3),
    cpu=Implementation(
        launch=partial(launchers.conv3x3, call_cpu),
        dtypes=_DTYPES,
        missing=_MISSING,
    ),
)
