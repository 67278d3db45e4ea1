"""The native libraries: loaded with ctypes, version-checked, with a reason when one is missing."""

from __future__ import annotations

import ctypes
import functools
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

ABI_VERSION = 3
# Another folder, of a build with sanitizers for instance, may be named in the environment.
LIBRARY_FOLDER = Path(
    os.environ.get("VFLOW_LIBRARY_FOLDER", Path(__file__).resolve().parent.parent / "_lib")
)
# An instruction set that the library is to use; by default the processor's best.
TARGET_VARIABLE = "VFLOW_CPU_TARGET"
# enum vflow_dtype
DTYPES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2}
CUDA_DTYPES = {**DTYPES, torch.float16: 3}
LEAST_CAPABILITY = (8, 0)  # of a device that the CUDA library has code for

_P, _I64, _INT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int
_DOUBLE = ctypes.c_double
_ROWS = [_P, _I64, _I64]
_CPU_SIGNATURES = {
    "vflow_cpu_mixlogistic": [_INT, *_ROWS, *[_P] * 3, *[_I64] * 3, _INT, _INT],
    "vflow_cpu_mixlogistic_inverse": [_INT, *_ROWS, *[_P] * 3, *[_I64] * 3, _INT, _INT],
    "vflow_cpu_mixlogistic_backward": [
        *[_INT, *_ROWS, _P, *_ROWS, *[_P] * 3],
        *[*[_I64] * 3, _INT, _INT],
    ],
    "vflow_cpu_actnorm_conv1x1": [_INT, *_ROWS, *[_P] * 5, *[_I64] * 3, _INT],
    "vflow_cpu_actnorm_conv1x1_inverse": [_INT, *_ROWS, *[_P] * 5, *[_I64] * 3, _INT],
    "vflow_cpu_actnorm_conv1x1_backward": [
        *[_INT, *_ROWS, _P, *_ROWS, *[_P] * 7],
        *[*[_I64] * 3, _INT],
    ],
    "vflow_cpu_gated_residual_norm": [_INT, *[_P] * 5, *[_I64] * 2, _INT],
    "vflow_cpu_gated_residual_norm_backward": [_INT, *[_P] * 8, *[_I64] * 2, _INT],
    "vflow_cpu_concat_elu": [_INT, *[_P] * 2, *[_I64] * 2, _INT],
    "vflow_cpu_concat_elu_backward": [_INT, *[_P] * 3, *[_I64] * 2, _INT],
    "vflow_cpu_concat_elu_dropout": [_INT, *[_P] * 3, *[_I64] * 2, _DOUBLE, _INT],
    "vflow_cpu_concat_elu_dropout_backward": [_INT, *[_P] * 4, *[_I64] * 2, _DOUBLE, _INT],
    "vflow_cpu_dropout": [_INT, *[_P] * 3, *[_I64] * 2, _DOUBLE, _INT],
    "vflow_cpu_self_attention": [_INT, *[_P] * 3, *[_I64] * 4, _INT],
    "vflow_cpu_self_attention_backward": [_INT, *[_P] * 6, *[_I64] * 4, _INT],
}
# A workspace and its bytes; a device and its stream.
_ROOM, _QUEUE = [_P, _I64], [_INT, _P]
_CUDA_SIGNATURES = {
    "vflow_cuda_mixlogistic": [_INT, *_ROWS, *[_P] * 3, *[_I64] * 3, _INT, *_ROOM, *_QUEUE],
    "vflow_cuda_mixlogistic_inverse": [
        *[_INT, *_ROWS, *[_P] * 3],
        *[*[_I64] * 3, _INT, *_ROOM, *_QUEUE],
    ],
    "vflow_cuda_mixlogistic_backward": [
        *[_INT, *_ROWS, _P, *_ROWS, *[_P] * 3],
        *[*[_I64] * 3, _INT, *_QUEUE],
    ],
    "vflow_cuda_actnorm_conv1x1": [_INT, *_ROWS, *[_P] * 5, *[_I64] * 3, *_ROOM, *_QUEUE],
    "vflow_cuda_actnorm_conv1x1_inverse": [
        *[_INT, *_ROWS, *[_P] * 5],
        *[*[_I64] * 3, *_ROOM, *_QUEUE],
    ],
    "vflow_cuda_actnorm_conv1x1_backward": [
        *[_INT, *_ROWS, _P, *_ROWS, *[_P] * 7],
        *[*[_I64] * 3, *_ROOM, *_QUEUE],
    ],
    "vflow_cuda_gated_residual_norm": [_INT, *[_P] * 5, *[_I64] * 2, *_QUEUE],
    "vflow_cuda_gated_residual_norm_backward": [_INT, *[_P] * 7, *[_I64] * 2, *_ROOM, *_QUEUE],
    "vflow_cuda_concat_elu": [_INT, *[_P] * 2, *[_I64] * 2, *_QUEUE],
    "vflow_cuda_concat_elu_backward": [_INT, *[_P] * 3, *[_I64] * 2, *_QUEUE],
    "vflow_cuda_concat_elu_dropout": [_INT, *[_P] * 3, *[_I64] * 2, _DOUBLE, *_QUEUE],
    "vflow_cuda_concat_elu_dropout_backward": [_INT, *[_P] * 4, *[_I64] * 2, _DOUBLE, *_QUEUE],
    "vflow_cuda_dropout": [_INT, *[_P] * 3, *[_I64] * 2, _DOUBLE, *_QUEUE],
}
_CUDA_WORKSPACES = {
    "vflow_cuda_mixlogistic_workspace": [_INT, *[_I64] * 3],
    "vflow_cuda_mixlogistic_inverse_workspace": [_INT, *[_I64] * 3],
    "vflow_cuda_actnorm_conv1x1_workspace": [_INT, *[_I64] * 3],
    "vflow_cuda_actnorm_conv1x1_inverse_workspace": [_INT, *[_I64] * 3],
    "vflow_cuda_actnorm_conv1x1_backward_workspace": [_INT, *[_I64] * 3],
    "vflow_cuda_gated_residual_norm_backward_workspace": [_INT, *[_I64] * 2],
}


class LibraryMissing(Exception):
    """A native library cannot be used; the message says why."""


@functools.cache
def cpu_missing() -> str | None:
    """Say why the CPU library cannot be used, or None if it can."""
    try:
        cpu_library()
    except LibraryMissing as error:
        return str(error)
    return None


@functools.cache
def cpu_library() -> ctypes.CDLL:
    """The CPU library.

    Raises:
        LibraryMissing: If it was not built, does not load, is of another version, or has not the
            instruction set that the environment asks for.
    """
    library = load_cpu(LIBRARY_FOLDER / "libvflow_cpu.so")
    wish, target = os.environ.get(TARGET_VARIABLE), library.vflow_cpu_target().decode()
    if wish and wish != target:
        raise LibraryMissing(
            f"{TARGET_VARIABLE} must be an instruction set of this processor and of this build "
            f"(the best is {target}), got {wish!r}"
        )
    return library


def cpu_target() -> str:
    """The instruction set that the CPU library runs on here, such as "x86-64-v3"."""
    target: bytes = cpu_library().vflow_cpu_target()
    return target.decode()


def load_cpu(path: Path) -> ctypes.CDLL:
    """Load the CPU library from a path.

    Raises:
        LibraryMissing: If that fails.
    """
    library = _load(path, _CPU_SIGNATURES, "cmake and a C++ compiler")
    library.vflow_cpu_target.restype = ctypes.c_char_p
    return library


@functools.cache
def cuda_missing() -> str | None:
    """Say why the CUDA library cannot be used, or None if it can; does not initialise CUDA."""
    if not torch.cuda.is_available():
        return "there is no CUDA device"
    try:
        cuda_library()
    except LibraryMissing as error:
        return str(error)
    return None


@functools.cache
def cuda_library() -> ctypes.CDLL:
    """The CUDA library.

    Raises:
        LibraryMissing: If it was not built, does not load, or is of another version.
    """
    return load_cuda(LIBRARY_FOLDER / "libvflow_cuda.so")


def load_cuda(path: Path) -> ctypes.CDLL:
    """Load the CUDA library from a path.

    Raises:
        LibraryMissing: If that fails.
    """
    library = _load(path, _CUDA_SIGNATURES, "nvcc")
    for name, arguments in _CUDA_WORKSPACES.items():
        function = getattr(library, name)
        function.argtypes, function.restype = arguments, _I64
    return library


def _load(path: Path, signatures: dict[str, list[Any]], built_with: str) -> ctypes.CDLL:
    """Load a library of functions that return an error code, and check its version."""
    if not path.is_file():
        raise LibraryMissing(f"{path.name} was not built (pip install needs {built_with})")
    try:
        library = ctypes.CDLL(str(path))
        version = library.vflow_abi_version()
        if version != ABI_VERSION:
            raise LibraryMissing(
                f"{path.name} has ABI version {version}, this package needs {ABI_VERSION}: rebuild"
            )
        for name, arguments in signatures.items():
            function = getattr(library, name)
            function.argtypes, function.restype = arguments, _INT
        library.vflow_error_message.argtypes = [_INT]
        library.vflow_error_message.restype = ctypes.c_char_p
    except (OSError, AttributeError) as error:
        raise LibraryMissing(f"{path.name} does not load: {error}") from error
    return library


def call(function: str, dtype: torch.dtype, *arguments: Any) -> None:
    """Call a function of the CPU library: dtype, pointers and sizes, torch's number of threads.

    Raises:
        RuntimeError: If it returns an error: a bug of ours, as the inputs have been checked.
    """
    library = cpu_library()
    error = getattr(library, function)(DTYPES[dtype], *arguments, torch.get_num_threads())
    if error:
        raise _failure(library, function, error)


def call_cuda(function: str, x: Tensor, *arguments: Any) -> None:
    """Call a function of the CUDA library: x's dtype, pointers and sizes, x's device and stream.

    Raises:
        RuntimeError: If it returns an error: CUDA's, or a bug of ours, as the inputs have been
            checked.
    """
    library = cuda_library()
    error = getattr(library, function)(CUDA_DTYPES[x.dtype], *arguments, *queue_of(x))
    if error:
        raise _failure(library, function, error)


def queue_of(x: Tensor) -> tuple[int, int]:
    """The index of x's CUDA device, and its current stream there."""
    index = x.get_device()
    return index, torch.cuda.current_stream(index).cuda_stream


def workspace(function: str, x: Tensor, *sizes: int) -> Tensor:
    """Scratch memory for a call of a function of the CUDA library, from PyTorch's allocator.

    Args:
        function: Its name.
        x: The tensor whose dtype and device it is called with.
        sizes: What the function's workspace depends on.

    Returns:
        Bytes, which need not outlive the call: the allocator keeps to the order of the stream.

    Raises:
        RuntimeError: If the sizes are beyond the function.
    """
    library = cuda_library()
    count = getattr(library, f"{function}_workspace")(CUDA_DTYPES[x.dtype], *sizes)
    if count < 0:
        raise _failure(library, function, -count)
    return torch.empty(count, dtype=torch.uint8, device=x.device)


def _failure(library: ctypes.CDLL, function: str, error: int) -> RuntimeError:
    message: bytes = library.vflow_error_message(error)
    return RuntimeError(f"{function} failed: {message.decode()}")


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
