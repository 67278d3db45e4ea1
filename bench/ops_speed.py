"""The timed function of bench/ops.py, for pytest-benchmark; run that file, not this one."""

from __future__ import annotations

import contextlib
from typing import Any

import torch

from bench.ops_cases import DTYPES, GPU_BACKENDS, Case
from bench.peak_memory import peak_memory
from vflow.ops import use_backend

SLOW = {"bisection"}
"""Candidates that are timed once, after one call that does not count."""
FORCED = {"reference", *GPU_BACKENDS}
"""Candidates that are backends."""


def test_speed(
    benchmark: Any, case: Case, candidate: str, device: str, dtype: str, rounds: int
) -> None:
    """Time one candidate of one case; what the table needs goes into extra_info."""
    torch.compiler.reset()
    call = case.call(candidate, device, DTYPES[dtype])
    chosen = use_backend(candidate) if candidate in FORCED else contextlib.nullcontext()

    def timed() -> None:
        call()
        if device == "cuda":
            torch.cuda.synchronize()

    with chosen:
        timed()
        benchmark.extra_info.update(
            operation=case.operation,
            size=case.size,
            kind=case.kind,
            candidate=candidate,
            bytes=case.numbers * DTYPES[dtype].itemsize,
            peak_bytes=peak_memory(timed, device) if case.kind == "forward + backward" else None,
        )
        once = candidate in SLOW
        benchmark.pedantic(timed, rounds=1 if once else rounds, warmup_rounds=0 if once else 2)
        benchmark.extra_info.update(
            device_seconds=_device_seconds(call) if device == "cuda" else None
        )


def _device_seconds(call: Any) -> float:
    """The median time of a call on the GPU alone.

    By events, with the level-2 cache emptied before each call, which also gives the host time to
    enqueue: a call of few kernels is not billed for its launches.
    """
    from triton.testing import do_bench

    milliseconds: float = do_bench(call, return_mode="median")
    return milliseconds / 1e3
