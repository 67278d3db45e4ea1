"""Holding one backend to another: values, gradients and bits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from tests.ops.inputs import outputs
from tests.tolerances import MULTIPLE, assert_within_budget
from vflow.ops import use_backend

STORED = [torch.float32, torch.float64, torch.bfloat16]
THREADS = [1, 2, 3, 5]
LARGE_BYTES = 8 << 20  # of an output that is streamed: kLargeBytes of csrc/cpu/parallel.h


def values_and_gradients(
    function: Callable, inputs: tuple[Tensor, ...], backend: str, differentiable: bool = True
) -> list[Tensor]:
    """Outputs, and gradients for fixed random cotangents."""
    with use_backend(backend):
        if not differentiable:
            return list(outputs(function(*inputs)))
        # Views are differentiated as they are: a detached copy of a strided input is strided too.
        leaves = tuple(t.detach().requires_grad_() for t in inputs)
        results = outputs(function(*leaves))
        generator = torch.Generator().manual_seed(1)
        cotangents = [
            torch.randn(r.shape, generator=generator, dtype=torch.float64).to(r.dtype)
            for r in results
        ]
        return [r.detach() for r in results] + list(
            torch.autograd.grad(results, leaves, cotangents)
        )


def assert_agrees(
    function: Callable,
    inputs: tuple[Tensor, ...],
    differentiable: bool = True,
    multiple: float = MULTIPLE,
) -> tuple[list[Tensor], list[Tensor]]:
    """Hold "cpu" to the reference: within the budget; the outputs and gradients of both.

    In float64, where the reference is its own truth, within 1e-12 of the terms, which are of
    order 1.
    """
    actual = values_and_gradients(function, inputs, "cpu", differentiable)
    reference = values_and_gradients(function, inputs, "reference", differentiable)
    truth = values_and_gradients(
        function, tuple(t.double() for t in inputs), "reference", differentiable
    )
    for i, (a, r, t) in enumerate(zip(actual, reference, truth, strict=True)):
        if a.dtype == torch.float64:
            assert a.shape == t.shape
            assert a.isfinite().all()
            error = (a - t).abs() / t.abs().amax().clamp_min(1) if t.numel() else t
            assert (error < 1e-12).all(), f"output or gradient {i}"
        else:
            assert_within_budget(f"output or gradient {i}", a, r, t, multiple=multiple)
    return actual, reference


def assert_same_bits(actual: list[Tensor], expected: list[Tensor], what: object = None) -> None:
    for i, (a, e) in enumerate(zip(actual, expected, strict=True)):
        assert torch.equal(a, e), f"output or gradient {i}: {what}"


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
