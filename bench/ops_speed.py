"""The timed function of bench/ops.py, for pytest-benchmark; run that file, not this one."""

from __future__ import annotations

import contextlib
import statistics
from typing import Any

import torch

from bench.ops_cases import DTYPES, GPU_BACKENDS, Case
from bench.peak_memory import peak_memory
from vflow.ops import use_backend

SLOW = {"bisection"}
"""Candidates that are timed once, after one call that does not count."""
FORCED = {"reference", *GPU_BACKENDS}
"""Candidates that are backends."""
CACHE_BYTES = 1 << 28
DEVICE_ROUNDS = 20
HEAD_START_CYCLES = 4_000_000
"""About 2 ms."""


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
    """The median time of a call on the GPU alone, by events.

    The level-2 cache is emptied before each call. The device is kept busy meanwhile, so that the
    host is ahead of it and launches are not in the bill, but for what they take beyond that, or
    where the call itself waits for the device.
    """
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    cache = torch.empty(CACHE_BYTES, dtype=torch.uint8, device="cuda")
    times = []
    for _ in range(DEVICE_ROUNDS):
        cache.zero_()
        torch.cuda._sleep(HEAD_START_CYCLES)
        begin.record()
        call()
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end) / 1e3)  # it gives milliseconds
    return statistics.median(times)
