"""Images a second of whole models: a training step, sampling, the one-sample ELBO.

    python bench/throughput.py
    python bench/throughput.py --presets vflow-4m-c6 --batch-size 16 --json bench/results/mine.json
    python bench/throughput.py --presets vflow-4m-c6 --profile

Each preset is timed with the reference operations in eager mode and with the operations this
machine chooses by itself, in turns within one run, so that a noisy neighbour hits both alike. The
profile tells where the time of the latter goes.
"""

from __future__ import annotations

import contextlib
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import tyro
from torch.profiler import ProfilerActivity, profile
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # for `python bench/throughput.py`

import vflow
from bench.machine import describe
from vflow.files import write_json
from vflow.models import ImageFlow
from vflow.ops import use_backend

PROFILED = 12
"""Rows of a profile."""
BACKENDS = ("reference", "default")


@dataclass(frozen=True, kw_only=True)
class Options:
    """Images a second of whole models."""

    presets: tuple[str, ...] = ("vflow-demo", "vflow-4m-c6")
    """Models to time; see `vflow models`."""
    batch_size: int = 8
    """Images in a batch."""
    rounds: int = 3
    """Timed calls of each kind and backend; the median counts."""
    device: str = field(default_factory=lambda: "cuda" if torch.cuda.is_available() else "cpu")
    """cpu or cuda."""
    profile: bool = False
    """Tell which operations the default backend's time goes to."""
    json: Path | None = None
    """Where to write the results."""


def main(options: Options) -> None:
    """Time every preset, print a table, write JSON."""
    results = []
    for name in options.presets:
        result = time_model(name, options)
        results.append(result)
        print(f"\n{name}: {result['parameters']:,} parameters, batch {options.batch_size}")
        print(f"  {'':10} {'reference':>12} {'default':>12} {'ratio':>7}   images/s")
        for kind, rates in result["images_per_second"].items():
            reference, default = (rates[backend] for backend in BACKENDS)
            print(f"  {kind:10} {reference:12.2f} {default:12.2f} {default / reference:7.2f}")
        for kind, rows in result.get("profile", {}).items():
            print(f"\n  {kind}: share of the time, milliseconds, calls")
            for row in rows:
                text = f"{row['share']:7.1%} {row['milliseconds']:9.1f} {row['calls']:6}"
                print(f"  {text}  {row['operation']}")
    if options.json is not None:
        write_json(options.json, {"machine": describe(options.device), "models": results})
        print(f"\nwritten to {options.json}")


def time_model(name: str, options: Options) -> dict[str, Any]:
    """Median images a second of one preset, by kind of call and backend."""
    torch.manual_seed(0)
    model = vflow.create_model(name)
    shape = (options.batch_size, *model.data_shape)
    images = torch.randint(0, 256, shape, dtype=torch.uint8)
    # Data-dependent initialisation wants variety more than it wants these very images.
    model.initialize(torch.randint(0, 256, (16, *model.data_shape), dtype=torch.uint8))
    model, images = model.to(options.device), images.to(options.device)
    calls = make_calls(model, images)
    seconds: dict[str, dict[str, list[float]]] = {k: {b: [] for b in BACKENDS} for k in calls}
    rounds = [(r, k, b) for r in range(options.rounds + 1) for k in calls for b in BACKENDS]
    for number, kind, backend in tqdm(rounds, desc=name, leave=False):
        chosen = use_backend("reference") if backend == "reference" else contextlib.nullcontext()
        with chosen:
            elapsed = stopwatch(calls[kind], options.device)
        if number > 0:  # the first round warms up
            seconds[kind][backend].append(elapsed)
    result = {
        "preset": name,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "batch_size": options.batch_size,
        "images_per_second": {
            kind: {b: options.batch_size / statistics.median(times[b]) for b in BACKENDS}
            for kind, times in seconds.items()
        },
    }
    if options.profile:
        result["profile"] = {
            kind: profiled(calls[kind], options.device) for kind in ("train", "sample")
        }
    return result


def make_calls(model: ImageFlow, images: torch.Tensor) -> dict[str, Callable[[], Any]]:
    """What is timed."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-5, fused=True)

    def train() -> None:
        model.train()
        (-model(images).mean() / model.dims).backward()
        optimizer.step()
        optimizer.zero_grad()

    return {
        "train": train,
        "sample": lambda: model.sample(len(images)),
        "elbo": lambda: model.bits_per_dim(images),
    }


def stopwatch(call: Callable[[], Any], device: str) -> float:
    """Seconds that a call takes, the GPU's work included."""
    start = time.perf_counter()
    call()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def profiled(call: Callable[[], Any], device: str) -> list[dict[str, Any]]:
    """The operations with the most time of their own in one call, as PyTorch's profiler saw it."""
    activities = [ProfilerActivity.CPU]
    if device == "cuda":
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities) as profiler:
        stopwatch(call, device)
    own = "self_device_time_total" if device == "cuda" else "self_cpu_time_total"
    events = sorted(profiler.key_averages(), key=lambda e: getattr(e, own), reverse=True)
    total = sum(getattr(event, own) for event in events)
    return [
        {
            "operation": event.key,
            "share": getattr(event, own) / total,
            "milliseconds": getattr(event, own) / 1e3,
            "calls": event.count,
        }
        for event in events[:PROFILED]
    ]


if __name__ == "__main__":
    main(tyro.cli(Options))
