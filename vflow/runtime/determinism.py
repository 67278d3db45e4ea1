"""Algorithms that give the same bits every time, from cuBLAS, cuDNN and PyTorch."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

CUBLAS_VARIABLE = "CUBLAS_WORKSPACE_CONFIG"
CUBLAS_VALUES = (":4096:8", ":16:8")


@contextmanager
def deterministic(wanted: bool) -> Iterator[None]:
    """Allow, within, only algorithms that give the same bits every time; or leave all as it is.

    PyTorch's fused attention chooses its deterministic gradient then, and cuDNN's attention, which
    has none on every version, is left out. An operation that has no such algorithm raises a
    RuntimeError that names it.

    Args:
        wanted: Whether to. Call it before the process first uses a GPU: cuBLAS reads its
            environment variable only then.

    Raises:
        ValueError: If the environment forbids it to cuBLAS.
    """
    if not wanted:
        yield
        return
    value = os.environ.setdefault(CUBLAS_VARIABLE, CUBLAS_VALUES[0])
    if value not in CUBLAS_VALUES:
        raise ValueError(
            f"{CUBLAS_VARIABLE} must be {' or '.join(CUBLAS_VALUES)} for deterministic, "
            f"got {value!r}"
        )
    cudnn, cuda = torch.backends.cudnn, torch.backends.cuda
    utils: Any = torch.utils.deterministic
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        (cudnn.deterministic, cudnn.benchmark),
        cuda.cudnn_sdp_enabled(),
        utils.fill_uninitialized_memory,
    )
    torch.use_deterministic_algorithms(True)
    cudnn.deterministic, cudnn.benchmark = True, False
    cuda.enable_cudnn_sdp(False)
    utils.fill_uninitialized_memory = False  # a help in finding faults, at a pass over the memory
    try:
        yield
    finally:
        enabled, warn_only, (cudnn.deterministic, cudnn.benchmark), sdp, fill = before
        torch.use_deterministic_algorithms(enabled, warn_only=warn_only)
        cuda.enable_cudnn_sdp(sdp)
        utils.fill_uninitialized_memory = fill
