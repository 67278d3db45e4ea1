"""The native libraries: loaded with ctypes, version-checked, with a reason when one is missing."""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path

import torch
from torch import Tensor

ABI_VERSION = 1
LIBRARY_FOLDER = Path(__file__).resolve().parent.parent / "_lib"

_POINTER, _INT64, _INT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int
_SIGNATURES = {
    "vflow_cpu_mixlogistic_f32": [_POINTER] * 4 + [_INT64] * 3 + [_INT],
    "vflow_cpu_mixlogistic_f64": [_POINTER] * 4 + [_INT64] * 3 + [_INT],
}


class LibraryMissing(Exception):
    """A native library cannot be used; the message says why."""


@functools.cache
def cpu_missing() -> str | None:
    """Say why the CPU library cannot be used, or None if it can."""
    try:
        _cpu()
    except LibraryMissing as error:
        return str(error)
    return None


def cpu_target() -> str:
    """The instruction set that the CPU library runs on here, such as "x86-64-v3"."""
    target: bytes = _cpu().vflow_cpu_target()
    return target.decode()


def mixlogistic(x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
    """Run `vflow.ops.mixlogistic` on CPU tensors of float32 or float64."""
    # The kernel reads rows of params whole; x is a small part of the traffic, so a strided view is
    # copied rather than served by a second kernel.
    x, params = x.contiguous(), params.contiguous()
    y = torch.empty_like(x)
    batch = x.shape[0]
    logdet = torch.empty(batch, dtype=x.dtype)
    kernel = _kernels()[x.dtype]
    error = kernel(
        x.data_ptr(),
        params.data_ptr(),
        y.data_ptr(),
        logdet.data_ptr(),
        batch,
        x.numel() // batch if batch else 0,
        (params.shape[-1] - 2) // 3,
        torch.get_num_threads(),
    )
    if error:
        message: bytes = _cpu().vflow_error_message(error)
        raise RuntimeError(f"the native mixlogistic kernel failed: {message.decode()}")
    return y, logdet


@functools.cache
def _kernels() -> dict[torch.dtype, ctypes._NamedFuncPointer]:
    library = _cpu()
    return {
        torch.float32: library.vflow_cpu_mixlogistic_f32,
        torch.float64: library.vflow_cpu_mixlogistic_f64,
    }


@functools.cache
def _cpu() -> ctypes.CDLL:
    return _load(LIBRARY_FOLDER / "libvflow_cpu.so")


def _load(path: Path) -> ctypes.CDLL:
    if not path.is_file():
        raise LibraryMissing(
            f"{path.name} was not built (pip install needs cmake and a C++ compiler)"
        )
    try:
        library = ctypes.CDLL(str(path))
        version = library.vflow_abi_version()
        if version != ABI_VERSION:
            raise LibraryMissing(
                f"{path.name} has ABI version {version}, this package needs {ABI_VERSION}: rebuild"
            )
        for name, arguments in _SIGNATURES.items():
            function = getattr(library, name)
            function.argtypes, function.restype = arguments, _INT
        library.vflow_error_message.argtypes = [_INT]
        library.vflow_error_message.restype = ctypes.c_char_p
        library.vflow_cpu_target.restype = ctypes.c_char_p
    except (OSError, AttributeError) as error:
        raise LibraryMissing(f"{path.name} does not load: {error}") from error
    return library
