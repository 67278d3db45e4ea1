"""Functions whose every output bit depends on their inputs alone.

What a lossless decoder computes must be, to the bit, what the encoder computed, on another
processor, with another number of threads, in another batch. These run on the native CPU library,
each sum and product rounded in one order, and take tensors on the CPU.
"""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor

from vflow.ops import native

FUNCTIONS = {"exp": 0, "log": 1, "tanh": 2, "sigmoid": 3}  # enum vflow_function


def call(function: str, *arguments: Any) -> None:
    """Call a function of the CPU library, with torch's number of threads.

    Raises:
        ValueError: If there is no library, or it refuses the arguments.
    """
    try:
        library = native.cpu_library()
    except native.LibraryMissing as error:
        raise ValueError(f"exact arithmetic needs the native CPU library: {error}") from error
    error_code = getattr(library, function)(*arguments, torch.get_num_threads())
    if error_code:
        message = library.vflow_error_message(error_code).decode()
        raise ValueError(f"{function} failed: {message}")


def pointer(tensor: Tensor) -> ctypes.c_void_p:
    """The address of a contiguous tensor on the CPU, which keeps the tensor alive."""
    assert tensor.is_contiguous()
    assert tensor.device.type == "cpu"
    address = ctypes.c_void_p(tensor.data_ptr())
    address.tensor = tensor  # type: ignore[attr-defined]
    return address


def function(name: str, x: Tensor) -> Tensor:
    """exp, log, tanh or sigmoid of float64 numbers."""
    x = x.contiguous()
    assert x.dtype == torch.float64
    y = torch.empty_like(x)
    call("exact_function", FUNCTIONS[name], pointer(x), pointer(y), x.numel())
    return y


def lift(x: Tensor, matrix: Tensor, *, upper: bool, inverse: bool = False) -> Tensor:
    """Whole numbers [..., C] times a triangular matrix [C, C] of ones on its diagonal, rounded.

    Each number changes by a rounded sum of those before (upper) or after it, and so the inverse
    undoes it exactly.
    """
    y = x.clone(memory_format=torch.contiguous_format)
    channels = matrix.shape[0]
    rows = y.numel() // channels
    call("exact_lift", pointer(y), pointer(matrix), rows, channels, upper, inverse)
    return y


def mixture_cells(
    x: Tensor, params: Tensor, squash: bool, grid: int, cell_bits: int
) -> tuple[Tensor, Tensor]:
    """Where the cells of whole numbers land under `vflow.ops.mixlogistic`.

    Args:
        x: int64 [B, ..., C], numbers over 2^grid; the bits above `cell_bits` say the cell.
        params: float [B, ..., C, 2 + 3K].
        squash: As of `vflow.ops.mixlogistic`.
        grid: Bits after the point.
        cell_bits: Bits within a cell.

    Returns:
        The lower ends and the widths of the cells' images, int64 like x.
    """
    x, params = x.contiguous(), params.contiguous()
    lower, width = torch.empty_like(x), torch.empty_like(x)
    arrays = [pointer(tensor) for tensor in (x, params, lower, width)]
    call("exact_mixture_cells", *_mixture_arguments(arrays, x, params, squash, grid, cell_bits))
    return lower, width


def mixture_find(
    y: Tensor, params: Tensor, squash: bool, grid: int, cell_bits: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The cells in whose images the numbers y are: their numbers, lower ends and widths.

    Arguments as of `mixture_cells`; a width of 0 is of a number that is in no image.
    """
    y, params = y.contiguous(), params.contiguous()
    cell, lower, width = (torch.empty_like(y) for _ in range(3))
    arrays = [pointer(tensor) for tensor in (y, params, cell, lower, width)]
    call("exact_mixture_find", *_mixture_arguments(arrays, y, params, squash, grid, cell_bits))
    return cell, lower, width


def _mixture_arguments(
    arrays: list[Any], x: Tensor, params: Tensor, squash: bool, grid: int, cell_bits: int
) -> list[Any]:
    components = (params.shape[-1] - 2) // 3
    dtype = native.DTYPES[params.dtype]
    return [dtype, *arrays, x.numel(), components, squash, grid, cell_bits]


# The networks inside couplings, in float32: the backend "exact"


def convolution(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """3x3 convolution with zeros around, or a linear map of the channels.

    Args:
        x: float32 [B, H, W, in] or, for a linear map, [..., in].
        weight: [out, in, 3, 3] or [out, in].
        bias: [out].

    Returns:
        [B, H, W, out] or [..., out]; no gradient flows.

    Raises:
        ValueError: If a gradient is wanted, or x is no float32 tensor on the CPU.
    """
    _require_inference("convolution", x, weight)
    x, bias, out = x.contiguous(), bias.contiguous(), weight.shape[0]
    side = 3 if weight.ndim == 4 else 1
    if side == 3:
        batch, height, width, channels = x.shape
        weight = weight.permute(0, 2, 3, 1)
    else:
        channels = x.shape[-1]
        batch, height, width = 1, x.numel() // channels, 1
    y = x.new_empty((*x.shape[:-1], out))
    arrays = [pointer(tensor) for tensor in (x, weight.contiguous(), bias, y)]
    call("exact_convolution", *arrays, batch, height, width, channels, out, side)
    return y


def norms(weight: Tensor) -> Tensor:
    """Euclidean norms [out] of what each output of a float32 weight [out, ...] has."""
    squares = weight.detach().square().flatten(1)
    ones, zero = squares.new_ones(1, squares.shape[1]), squares.new_zeros(1)
    return convolution(squares, ones, zero).sqrt().flatten()  # roots round correctly everywhere


def concat_elu(x: Tensor) -> Tensor:
    """See `vflow.ops.concat_elu`."""
    x, channels = x.contiguous(), x.shape[-1]
    y = x.new_empty((*x.shape[:-1], 2 * channels))
    call("exact_concat_elu", pointer(x), pointer(y), x.numel() // channels, channels)
    return y


def gated_residual(
    x: Tensor, ab: Tensor, weight: Tensor | None = None, bias: Tensor | None = None
) -> Tensor:
    """x + a * sigmoid(b), and with weight and bias the LayerNorm of that."""
    _require_inference("gated_residual", x, ab)
    x, ab, features = x.contiguous(), ab.contiguous(), x.shape[-1]
    y = torch.empty_like(x)
    norm = [None if t is None else pointer(t.contiguous()) for t in (weight, bias)]
    arrays = [pointer(x), pointer(ab), *norm, pointer(y)]
    call("exact_gated_residual", *arrays, x.numel() // features, features)
    return y


def self_attention(qkv: Tensor) -> Tensor:
    """See `vflow.ops.self_attention`."""
    qkv = qkv.contiguous()
    batch, positions, _, heads, width = qkv.shape
    y = qkv.new_empty((batch, positions, heads, width))
    call("exact_attention", pointer(qkv), pointer(y), batch, positions, heads, width)
    return y


def _require_inference(name: str, *tensors: Tensor) -> None:
    for tensor in tensors:
        if tensor.dtype != torch.float32 or tensor.device.type != "cpu":
            raise ValueError(
                f"backend 'exact' cannot run {name}: it takes torch.float32 on the CPU, got "
                f"{tensor.dtype} on {tensor.device.type}"
            )
        if tensor.requires_grad and torch.is_grad_enabled():
            raise ValueError(f"backend 'exact' has no gradients: run {name} under torch.no_grad()")
