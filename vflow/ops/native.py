"""The native libraries: loaded with ctypes, version-checked, with a reason when one is missing."""

from __future__ import annotations

import ctypes
import functools
import json
import os
import platform
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from vflow.ops import gpu

ABI_VERSION = 6
# Another folder, of a build with sanitizers for instance, may be named in the environment.
LIBRARY_FOLDER = Path(
    os.environ.get("VFLOW_LIBRARY_FOLDER", Path(__file__).resolve().parent.parent / "_lib")
)
# An instruction set that the library is to use; by default the processor's best.
TARGET_VARIABLE = "VFLOW_CPU_TARGET"
# enum vflow_dtype
DTYPES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2}
CUDA_DTYPES = {**DTYPES, torch.float16: 3}
_X86 = ("x86_64", "AMD64", "amd64")
LEAST_CAPABILITY = (8, 0)  # of a device that the CUDA library has code for

_P, _I64, _INT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int
_DOUBLE = ctypes.c_double
_ROWS = [_P, _I64, _I64]  # an array, the length of its rows, and from one row to the next


@dataclass(frozen=True)
class Function:
    """A function of the libraries: what it takes between its dtype and where to run."""

    arrays: list[Any]
    """Types of the arrays' addresses, and of the rows and strides of those that have them."""
    sizes: int
    """How many sizes come after them."""
    numbers: list[Any] = field(default_factory=list)
    """Types of what comes last."""
    cuda: bool = True
    """Whether the CUDA library has it."""
    workspace: bool = False
    """Whether it takes one there, as large as its _workspace function says."""

    def leading_arguments(self) -> list[Any]:
        """The types of the arguments that both libraries take."""
        return [_INT, *self.arrays, *[_I64] * self.sizes, *self.numbers]

    def sizes_of(self, arguments: tuple[Any, ...]) -> tuple[int, ...]:
        """The sizes among a call's arguments after the dtype."""
        return arguments[len(self.arrays) : len(self.arrays) + self.sizes]


# csrc/vflow.h, whose names begin with vflow_cpu_ and vflow_cuda_.
FUNCTIONS = {
    "mixlogistic": Function([*_ROWS, *[_P] * 3], 3, [_INT], workspace=True),
    "mixlogistic_inverse": Function([*_ROWS, *[_P] * 3], 3, [_INT], workspace=True),
    "mixlogistic_backward": Function([*_ROWS, _P, *_ROWS, *[_P] * 3], 3, [_INT]),
    "actnorm_conv1x1": Function([*_ROWS, *[_P] * 5], 3, workspace=True),
    "actnorm_conv1x1_inverse": Function([*_ROWS, *[_P] * 5], 3, workspace=True),
    "actnorm_conv1x1_backward": Function([*_ROWS, _P, *_ROWS, *[_P] * 7], 3, workspace=True),
    "gated_residual_norm": Function([_P] * 5, 2),
    "gated_residual_norm_backward": Function([_P] * 7, 2, workspace=True),
    "concat_elu": Function([_P] * 2, 2),
    "concat_elu_backward": Function([_P] * 3, 2),
    "concat_elu_dropout": Function([_P] * 3, 2, [_DOUBLE]),
    "concat_elu_dropout_backward": Function([_P] * 4, 2, [_DOUBLE]),
    "dropout": Function([_P] * 3, 2, [_DOUBLE]),
    "self_attention": Function([_P] * 3, 4, cuda=False),
    "self_attention_backward": Function([_P] * 6, 4, cuda=False),
    "conv3x3": Function([_P] * 4, 5, [_INT], cuda=False),
    "conv3x3_backward": Function([_P] * 3, 5, cuda=False),
}

# The coder's and the exact functions, the CPU's alone: what they take before the threads.
CODING_FUNCTIONS = {
    "coder_push_bits": [_P, _P, _I64, _INT],
    "coder_pop_bits": [_P, _P, _I64, _INT],
    "coder_push_normal": [_P, _P, _I64, _INT, _P],
    "coder_pop_normal": [_P, _P, _I64, _INT, _P],
    "coder_cells": [_P, *[_P] * 4, _I64, _INT],
    "coder_cells_inverse": [_P, *[_P] * 5, _I64, _INT],
    "coder_scale": [_P, *[_P] * 5, _I64, _I64],
    "coder_scale_inverse": [_P, *[_P] * 5, _I64, _I64],
    "exact_mixture_cells": [_INT, *[_P] * 4, _I64, _I64, *[_INT] * 3],
    "exact_mixture_find": [_INT, *[_P] * 5, _I64, _I64, *[_INT] * 3],
    "exact_function": [_INT, _P, _P, _I64],
    "exact_lift": [_P, _P, _I64, _I64, _INT, _INT],
    "exact_convolution": [*[_P] * 4, *[_I64] * 5, _INT],
    "exact_concat_elu": [_P, _P, _I64, _I64],
    "exact_gated_residual": [*[_P] * 5, _I64, _I64],
    "exact_attention": [_P, _P, *[_I64] * 4],
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


@functools.cache
def fused_missing() -> str | None:
    """Say why kernels that live on fused products and sums cannot be used, or None if they can."""
    missing = cpu_missing()
    if missing is None and platform.machine() in _X86 and cpu_target() in ("generic", "x86-64-v2"):
        return f"the instruction set {cpu_target()} has no fused products and sums"
    return missing


def cpu_target() -> str:
    """The instruction set that the CPU library runs on here, such as "x86-64-v3"."""
    target: bytes = cpu_library().vflow_cpu_target()
    return target.decode()


def load_cpu(path: Path) -> ctypes.CDLL:
    """Load the CPU library from a path.

    Raises:
        LibraryMissing: If that fails.
    """
    signatures = {name: [*f.leading_arguments(), _INT] for name, f in FUNCTIONS.items()}
    signatures |= {name: [*types, _INT] for name, types in CODING_FUNCTIONS.items()}
    library = _load(path, "vflow_cpu_", signatures, "cmake and a C++ compiler")
    library.vflow_cpu_target.restype = ctypes.c_char_p
    return library


def cuda_missing() -> str | None:
    """Say why the CUDA library cannot be used, or None if it can."""
    return gpu.device_missing() or _cuda_library_missing()


@functools.cache
def _cuda_library_missing() -> str | None:
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
    functions = {name: f for name, f in FUNCTIONS.items() if f.cuda}
    workspaces = {
        f"{name}_workspace": [_INT, *[_I64] * f.sizes]
        for name, f in functions.items()
        if f.workspace
    }
    room, queue = [_P, _I64], [_INT, _P]  # a workspace and its bytes; a device and its stream
    signatures = {
        name: [*f.leading_arguments(), *(room if f.workspace else []), *queue]
        for name, f in functions.items()
    }
    library = _load(path, "vflow_cuda_", {**signatures, **workspaces}, "nvcc")
    for name in workspaces:
        getattr(library, name).restype = _I64  # bytes, or minus an error
    return library


def _why_not_built(path: Path, built_with: str) -> str:
    """What the build has left word of, if it has."""
    try:
        reasons = json.loads((path.parent / "build.json").read_text())["missing"]
        reason = reasons[path.stem.removeprefix("libvflow_")]
    except (OSError, ValueError, KeyError, TypeError):
        return f" (pip install needs {built_with})"
    return f": {reason} (install what is missing, then vflow again)"


def _load(
    path: Path, prefix: str, signatures: dict[str, list[Any]], built_with: str
) -> ctypes.CDLL:
    """Load a library of functions that return an error code, and check its version.

    Its functions are attributes by their names without the prefix, too: those of both libraries are
    called by the same names, and no string is put together at each call.
    """
    if not path.is_file():
        raise LibraryMissing(f"{path.name} was not built{_why_not_built(path, built_with)}")
    try:
        library = ctypes.CDLL(str(path))
        version = library.vflow_abi_version()
        if version != ABI_VERSION:
            raise LibraryMissing(
                f"{path.name} has ABI version {version}, this package needs {ABI_VERSION}: rebuild"
            )
        for name, arguments in signatures.items():
            function = getattr(library, f"{prefix}{name}")
            function.argtypes, function.restype = arguments, _INT
            setattr(library, name, function)
        library.vflow_error_message.argtypes = [_INT]
        library.vflow_error_message.restype = ctypes.c_char_p
    except (OSError, AttributeError) as error:
        raise LibraryMissing(f"{path.name} does not load: {error}") from error
    return library
