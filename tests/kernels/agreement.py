"""Holding a kernel's launcher to the reference: values within the error budget, and bits."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from tests.ops.inputs import outputs
from tests.tolerances import assert_within_budget

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


def wide(dtype: torch.dtype) -> torch.dtype:
    """The dtype of log-determinants."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def to_device(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Tensors on the device under test; views of them are cut there, as a copy may close gaps."""
    return tuple(t.to(DEVICE) for t in tensors)


def assert_agrees(launch: Callable, reference: Callable, inputs: tuple[Tensor, ...]) -> None:
    """Hold a launcher to the reference on inputs that may lie on the device.

    In float64, where the reference is its own truth, within 1e-12 of the terms, which are of
    order 1.
    """
    before = [t.clone() for t in inputs]
    actual = [r.cpu() for r in outputs(launch(*inputs))]
    here = [t.cpu() for t in inputs]
    expected = outputs(reference(*here))
    truth = outputs(reference(*(t.double() for t in here)))
    for i, (a, e, t) in enumerate(zip(actual, expected, truth, strict=True)):
        assert a.is_contiguous(), f"output {i}"
        if a.dtype == torch.float64:
            assert e.dtype == a.dtype
            assert a.shape == e.shape, f"output {i}: {a.shape}, not {e.shape}"
            assert a.isfinite().all(), f"output {i}"
            error = (a - t).abs() / t.abs().amax().clamp_min(1) if t.numel() else t
            assert (error < 1e-12).all(), f"output {i}: error {error.max().item():.3g}"
        else:
            assert_within_budget(f"output {i}", a, e, t)
    for t, copy in zip(inputs, before, strict=True):
        assert torch.equal(t, copy), "an input was changed"


def assert_same_bits(launch: Callable, inputs: tuple[Tensor, ...], others: tuple | None = None):
    """A second run gives the same bits, be it of other tensors with the same numbers."""
    again = inputs if others is None else others
    pairs = zip(outputs(launch(*again)), outputs(launch(*inputs)), strict=True)
    for i, (a, e) in enumerate(pairs):
        assert torch.equal(a, e), f"output {i}"
