"""Calls of the native libraries' functions, and tensors as these take them."""

from __future__ import annotations

import ctypes
from typing import Any, Protocol

import torch
from torch import Tensor

from vflow.ops import native


class Call(Protocol):
    """How to call a function of one library."""

    def __call__(self, function: str, x: Tensor, *arguments: Any) -> None:
        """Call a function.

        Args:
            function: Its name without the library's prefix.
            x: A tensor of the dtype and on the device of the call.
            arguments: What both libraries take, as csrc/vflow.h has it: the addresses of arrays
                (`Rows.arguments` of those with rows and strides), sizes, numbers.

        Raises:
            RuntimeError: If it returns an error: CUDA's, or a bug of ours, as the inputs have been
                checked.
        """


def call_cpu(function: str, x: Tensor, *arguments: Any) -> None:
    """`Call` of the CPU library, with torch's number of threads."""
    library, dtype = native.cpu_library(), native.DTYPES[x.dtype]
    error = getattr(library, function)(dtype, *arguments, torch.get_num_threads())
    if error:
        raise _failure(library, f"vflow_cpu_{function}", error)


def call_cuda(function: str, x: Tensor, *arguments: Any) -> None:
    """`Call` of the CUDA library, on x's device and its current stream."""
    library, dtype = native.cuda_library(), native.CUDA_DTYPES[x.dtype]
    signature = native.FUNCTIONS[function]
    room: tuple[int, ...] = ()
    if signature.workspace:
        # It has a name, to last until after the call.
        memory = workspace(function, x, *signature.sizes_of(arguments))
        room = memory.data_ptr(), memory.numel()
    error = getattr(library, function)(dtype, *arguments, *room, *queue_of(x))
    if error:
        raise _failure(library, f"vflow_cuda_{function}", error)


def queue_of(x: Tensor) -> tuple[int, int]:
    """The index of x's CUDA device, and its current stream there."""
    index = x.get_device()
    return index, torch.cuda.current_stream(index).cuda_stream


def workspace(function: str, x: Tensor, *sizes: int) -> Tensor:
    """Scratch memory for a call of a function of the CUDA library, from PyTorch's allocator.

    Args:
        function: Its name without the library's prefix.
        x: The tensor whose dtype and device it is called with.
        sizes: What the function's workspace depends on.

    Returns:
        Bytes, which need not outlive the call: the allocator keeps to the order of the stream.

    Raises:
        RuntimeError: If the sizes are beyond the function.
    """
    library, name = native.cuda_library(), f"{function}_workspace"
    count = getattr(library, name)(native.CUDA_DTYPES[x.dtype], *sizes)
    if count < 0:
        raise _failure(library, f"vflow_cuda_{name}", -count)
    return torch.empty(count, dtype=torch.uint8, device=x.device)


def empty_contiguous(tensor: Tensor) -> Tensor:
    """Room for numbers like a tensor's, contiguous even if that is not."""
    return torch.empty_like(tensor, memory_format=torch.contiguous_format)


def _failure(library: ctypes.CDLL, name: str, error: int) -> RuntimeError:
    message: bytes = library.vflow_error_message(error)
    return RuntimeError(f"{name} failed: {message.decode()}")


class Rows:
    """How a tensor's numbers lie, as the C ABI takes them: its pointer, a row and a stride.

    The halves of a checkerboard or channel split and expanded tensors are taken as they are; what
    does not lie in rows is copied. An instance keeps the tensor that the pointer belongs to alive.
    """

    def __init__(self, tensor: Tensor) -> None:
        row_and_stride = _row_and_stride(tensor)
        if row_and_stride is None:
            tensor = tensor.contiguous()
            row_and_stride = tensor.numel(), tensor.numel()
        self.tensor = tensor
        self.arguments = (tensor.data_ptr(), *row_and_stride)


def _row_and_stride(tensor: Tensor) -> tuple[int, int] | None:
    if tensor.is_contiguous():
        return tensor.numel(), tensor.numel()
    groups: list[list[int]] = []  # [size, stride], innermost first, of dimensions that join
    for size, stride in zip(reversed(tensor.shape), reversed(tensor.stride()), strict=True):
        if size == 1:
            continue
        if groups and stride == groups[-1][0] * groups[-1][1]:
            groups[-1][0] *= size
        else:
            groups.append([size, stride])
    if len(groups) == 1:
        return 1, groups[0][1]
    if len(groups) == 2 and groups[0][1] == 1:
        return groups[0][0], groups[1][1]
    return None
