"""The timed function of bench/ops.py, for pytest-benchmark; run that file, not this one."""

from __future__ import annotations

import contextlib
from typing import Any

import torch

from bench.ops_cases import Case
from bench.peak_memory import peak_memory
from vflow.ops import use_backend

SLOW = {"bisection"}
"""Candidates that are timed once, after one call that does not count."""


def test_speed(benchmark: Any, case: Case, candidate: str, device: str, rounds: int) -> None:
    """Time one candidate of one case; what the table needs goes into extra_info."""
    torch.compiler.reset()
    call = case.call(candidate, device)
    chosen = use_backend("reference") if candidate == "reference" else contextlib.nullcontext()

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
            bytes=case.bytes,
            peak_bytes=peak_memory(timed, device) if case.kind == "forward + backward" else None,
        )
        once = candidate in SLOW
        benchmark.pedantic(timed, rounds=1 if once else rounds, warmup_rounds=0 if once else 2)
