"""Which implementation an operation runs: chosen by device, best first, or forced by name.

The choice is made in Python before the registered operation is called, and travels as its last
argument: a compiled graph holds the backend it was traced under and is traced again under another,
and a backward pass runs on the backend of its forward, wherever and whenever it is called.
"""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from vflow.ops import gpu, native
from vflow.ops.launchers.call import call_cpu, call_cuda

BACKENDS = ("reference", "cpu", "triton", "cuda", "exact")
ENVIRONMENT_VARIABLE = "VFLOW_BACKEND"
ANY_DTYPE = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

# Nobody has measured CUDA's kernels against Triton's on a device yet. Whoever does tells it
# operation by operation, by `Operation(..., first="cuda")`.
_BEST_FIRST = {"cpu": ("cpu", "reference"), "cuda": ("triton", "cuda", "reference")}
_DEVICES = {"cpu": ("cpu",), "triton": ("cuda",), "cuda": ("cuda",), "exact": ("cpu",)}


@dataclass(frozen=True, kw_only=True)
class Implementation:
    """One backend's way to run one operation."""

    launch: Callable[..., Any]
    """Tensors, then numbers in, tensors out; the inputs have been checked."""
    dtypes: tuple[torch.dtype, ...] = ANY_DTYPE
    """The dtypes of the first tensor that it takes."""
    missing: str | Callable[[], str | None] | None = None
    """Why it cannot run here, None if it can; a function that tells where to ask wakes a device."""
    capability: tuple[int, int] = (0, 0)
    """The least compute capability of a CUDA device that it runs on."""


def native_cpu(launch: Callable[..., Any]) -> Implementation:
    """An implementation on the native CPU library, by a launcher that takes how to call it."""
    return Implementation(
        launch=partial(launch, call_cpu),
        dtypes=tuple(native.DTYPES),
        missing=native.cpu_missing(),
    )


def exact_cpu(launch: Callable[..., Any]) -> Implementation:
    """An implementation whose every bit depends on its inputs alone (`vflow.ops.exact`)."""
    return Implementation(launch=launch, dtypes=(torch.float32,), missing=native.cpu_missing())


def native_cuda(launch: Callable[..., Any]) -> Implementation:
    """An implementation on the native CUDA library, by a launcher that takes how to call it."""
    return Implementation(
        launch=partial(launch, call_cuda),
        missing=native.cuda_missing,
        capability=native.LEAST_CAPABILITY,
    )


def triton_gpu(module: str, name: str) -> Implementation:
    """An implementation by the launcher `name` of the Triton kernels in `module`."""
    launch = gpu.triton_launcher(module, name)
    return Implementation(
        launch=launch, missing=gpu.triton_missing, capability=gpu.LEAST_CAPABILITY
    )


_implementations: dict[str, dict[str, Implementation]] = {}
_first: dict[str, str] = {}
_forced: str | None = os.environ.get(ENVIRONMENT_VARIABLE) or None


def register(
    operation: str, *, first: str | None = None, **implementations: Implementation
) -> None:
    """Make implementations known, by backend name.

    Args:
        operation: The operation's stem.
        first: The backend to prefer for it to the device's usual order.
        implementations: By backend name.
    """
    _implementations.setdefault(operation, {}).update(implementations)
    if first is not None:
        _first[operation] = first


def order(operation: str, device_type: str) -> tuple[str, ...]:
    """The backends for a type of device, in the order in which an operation tries them."""
    usual = _BEST_FIRST.get(device_type, ())
    first = _first.get(operation)
    return usual if first not in usual else (first, *(name for name in usual if name != first))


def implementation(operation: str, name: str) -> Implementation:
    """The implementation of a backend that `choose` has given.

    Raises:
        ValueError: If it has none, as of the gradient of an exact operation.
    """
    if name not in _implementations[operation]:
        raise ValueError(f"backend '{name}' has no {operation}")
    return _implementations[operation][name]


def is_exact() -> bool:
    """Whether the backend "exact" is forced: networks then compute the same bits everywhere."""
    return _forced == "exact"


def choose(operation: str, x: Tensor) -> str:
    """Name the backend that is to run `operation` on tensors like x.

    Raises:
        ValueError: If a backend was asked for by name and cannot: it never falls back silently.
    """
    known = _implementations[operation]
    if _forced is not None:
        problem = _problem(operation, _forced, x)
        if problem is not None:
            raise ValueError(problem)
        return _forced
    for name in order(operation, x.device.type):
        if name in known and _runs(operation, name, x):
            if name == "reference" and x.device.type == "cpu":
                _tell_if_slow(operation)
            return name
    return "reference"


def require_usable(device_type: str) -> None:
    """Check a backend forced by name before any operation runs, such as VFLOW_BACKEND's.

    Args:
        device_type: "cpu" or "cuda", where the operations are to run.

    Raises:
        ValueError: If there is no such backend, nothing of it can run here, or it is not for such a
            device.
    """
    if _forced is None:
        return
    problem = _unusable(_forced)
    devices = _DEVICES.get(_forced, (device_type,))
    if problem is None and device_type not in devices:
        problem = f"backend '{_forced}' takes tensors on {' or '.join(devices)}, got {device_type}"
    if problem is not None:
        by = f" ({ENVIRONMENT_VARIABLE})" if os.environ.get(ENVIRONMENT_VARIABLE) == _forced else ""
        raise ValueError(f"{problem}{by}")


_told = False


def _tell_if_slow(operation: str) -> None:
    """Warn once of a CPU that runs on plain PyTorch because there is no native library."""
    global _told
    if _told or torch.compiler.is_compiling() or "cpu" not in _implementations[operation]:
        return
    missing = _reason_missing(operation, "cpu")
    if missing is None:
        return
    _told = True
    warnings.warn(
        f"vflow runs on plain PyTorch here, many times slower than its native library: {missing}; "
        "see vflow info",
        stacklevel=2,
    )


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Run every operation on the named backend within the block.

    The choice holds for the whole process, all threads included, like torch's own backend flags.

    Args:
        name: "reference", "cpu", "triton", "cuda", or "exact", which computes the same bits on
            every machine, runs the couplings' networks in float32, and has no gradients.

    Raises:
        ValueError: If there is no such backend or nothing of it can run here. An operation that the
            backend does not have, or not for its tensors, raises when it is called.
    """
    problem = _unusable(name)
    if problem is not None:
        raise ValueError(problem)
    with as_named(name):
        yield


def named() -> str | None:
    """The backend that was asked for by name, if any was."""
    return _forced


@contextmanager
def as_named(name: str | None) -> Iterator[None]:
    """Choose within the block as when `named` gave `name`."""
    global _forced
    previous, _forced = _forced, name
    try:
        yield
    finally:
        _forced = previous


def describe() -> dict[str, dict[str, str]]:
    """Tell for each operation and backend whether it can run here.

    Returns:
        {operation: {backend: "available" or the reason why not}}, backward operations included.
    """
    return {
        operation: {
            name: _reason_missing(operation, name)
            or next(filter(None, _too_old_here(operation, name)), "available")
            for name in BACKENDS
        }
        for operation in sorted(_implementations)
    }


def _problem(operation: str, name: str, x: Tensor) -> str | None:
    if name not in BACKENDS:
        return f"{_unusable(name)} ({ENVIRONMENT_VARIABLE})"  # `use_backend` lets none in
    reason = None
    if name in _DEVICES and x.device.type not in _DEVICES[name]:
        reason = f"it takes tensors on {' or '.join(_DEVICES[name])}, got {x.device.type}"
    # Nothing is asked of CUDA where a tensor of the CPU's has come.
    reason = _reason_missing(operation, name) if reason is None else reason
    if reason is None:
        reason = _too_old(_implementations[operation][name], x.device)
    if reason is None and x.dtype not in _implementations[operation][name].dtypes:
        dtypes = _implementations[operation][name].dtypes
        reason = f"it takes {' or '.join(str(dtype) for dtype in dtypes)}, got {x.dtype}"
    if reason is None:
        return None
    others = [
        other
        for other in BACKENDS
        if x.device.type in _DEVICES.get(other, (x.device.type,))
        and _reason_missing(operation, other) is None
    ]
    return f"backend '{name}' cannot run {operation}: {reason}; available: {', '.join(others)}"


def _runs(operation: str, name: str, x: Tensor) -> bool:
    known = _implementations[operation][name]
    return (
        x.dtype in known.dtypes
        and (known.missing is None or _reason_missing(operation, name) is None)
        and _too_old(known, x.device) is None
    )


def _too_old(known: Implementation, device: torch.device) -> str | None:
    """Say why an implementation cannot run on a CUDA device, or None if it can."""
    if device.type != "cuda" or known.capability == (0, 0):
        return None
    found = _capability(device.index)
    if found >= known.capability:
        return None
    least, has = (".".join(map(str, version)) for version in (known.capability, found))
    return f"it needs a device of compute capability {least} or above, {device} has {has}"


def _too_old_here(operation: str, name: str) -> list[str | None]:
    """`_too_old` of each CUDA device that is here."""
    known = _implementations[operation][name]
    devices = range(torch.cuda.device_count()) if known.capability > (0, 0) else ()
    return [_too_old(known, torch.device("cuda", index)) for index in devices]


def _reason_missing(operation: str, name: str) -> str | None:
    known = _implementations[operation]
    if name not in known:
        return f"{operation} has no {name} implementation"
    missing = known[name].missing
    return missing() if callable(missing) else missing


def _capability(index: int) -> tuple[int, int]:
    """The compute capability of a CUDA device."""
    return _asked_once(torch.cuda.get_device_capability, index)


@functools.cache
def _asked_once(ask: Callable[[int], tuple[int, int]], index: int) -> tuple[int, int]:
    return ask(index)


# As torch.compiler.assume_constant_result marks them, which would import the compiler.
vars(_reason_missing)["_dynamo_marked_constant"] = True
vars(_capability)["_dynamo_marked_constant"] = True


def _unusable(name: str) -> str | None:
    if name not in BACKENDS:
        return f"backend must be one of {', '.join(BACKENDS)}, got {name!r}"
    reasons = [_reason_everywhere(operation, name) for operation in _implementations]
    if any(reason is None for reason in reasons):
        return None
    has_no = [f"{operation} has no {name} implementation" for operation in _implementations]
    registered = [reason for reason in reasons if reason not in has_no]
    reason = registered[0] if registered else "no operation has an implementation of it"
    usable = [other for other in BACKENDS if _any_available(other)]
    return f"backend '{name}' is not available: {reason}; available: {', '.join(usable)}"


def _reason_everywhere(operation: str, name: str) -> str | None:
    """Why an operation cannot run on any device that is here."""
    missing = _reason_missing(operation, name)
    if missing is not None:
        return missing
    devices = _too_old_here(operation, name)
    return devices[0] if devices and None not in devices else None


def _any_available(name: str) -> bool:
    return any(_reason_everywhere(operation, name) is None for operation in _implementations)
