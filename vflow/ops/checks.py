"""Checks shared by the public functions: what came in is named in the error, on one line."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vflow.ops.backend import ANY_DTYPE


def check_tensor(name: str, value: Any) -> None:
    """Require a tensor of a floating dtype."""
    if not isinstance(value, Tensor):
        raise ValueError(f"{name} must be a torch.Tensor, got {type(value).__name__}")
    if value.dtype not in ANY_DTYPE:
        raise ValueError(
            f"{name} must have dtype float16, bfloat16, float32 or float64, got {value.dtype}"
        )


def check_like(name: str, value: Any, lead_name: str, lead: Tensor) -> None:
    """Require a tensor of the dtype and on the device of `lead`."""
    check_tensor(name, value)
    if value.dtype != lead.dtype:
        raise ValueError(
            f"{name} must have dtype {lead.dtype}, that of {lead_name}, got {value.dtype}"
        )
    check_device(name, value, lead_name, lead)


def check_device(name: str, value: Tensor, lead_name: str, lead: Tensor) -> None:
    """Require the device of `lead`."""
    if value.device != lead.device:
        raise ValueError(
            f"{name} must be on {lead.device}, the device of {lead_name}, got {value.device}"
        )


def check_shape(name: str, value: Tensor, requirement: str, shape: tuple[int, ...]) -> None:
    """Require exactly `shape`, described to the user as `requirement`."""
    if value.shape != shape:
        raise ValueError(
            f"{name} must have shape {requirement} = {tuple(shape)}, got {tuple(value.shape)}"
        )


def check_rank(name: str, value: Tensor, requirement: str, least: int) -> None:
    """Require at least `least` dimensions and a last one that is not empty."""
    if value.ndim < least or value.shape[-1] < 1:
        raise ValueError(f"{name} must have shape {requirement}, got {tuple(value.shape)}")


def check_dropout(value: Any) -> None:
    """Require a probability below 1."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
        raise ValueError(f"dropout must be a number in [0, 1), got {value!r}")


def check_seed(seed: Any, x: Tensor) -> None:
    """Require a seed of dropout on x's device.

    Raises:
        ValueError: If it is anything else; says what came.
    """
    if not isinstance(seed, Tensor) or seed.dtype != torch.int64 or seed.shape != (2,):
        came = f"{seed.dtype} {list(seed.shape)}" if isinstance(seed, Tensor) else repr(seed)
        raise ValueError(f"seed must be an int64 tensor [2], got {came}")
    check_device("seed", seed, "x", x)


def logdet_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of log-determinants: float64 for float64, otherwise float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32
