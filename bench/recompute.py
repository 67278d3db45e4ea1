"""What a training step keeps and costs when its backward pass computes things again.

    python bench/recompute.py --json bench/results/recompute-cpu.json

Peak memory above what parameters and gradients take, and seconds a step, for each choice of
`--recompute`; and the peak of flows with more couplings at full size. On a CPU the tensors' own
peak, too: glibc before 2.39 cannot hand out again much of what was freed, unless it is begun with
GLIBC_TUNABLES=glibc.malloc.tcache_count=0 in the environment.
"""

from __future__ import annotations

import os
import platform
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import vflow  # before torch, for the spin of its threads

# isort: split
import torch

from bench.machine import describe
from bench.peak_memory import peak_memory, peak_tensors
from vflow.nets.recompute import RECOMPUTE
from vflow.runtime.console import one_line_errors
from vflow.runtime.extras import tyro
from vflow.runtime.files import write_json


@dataclass(frozen=True, kw_only=True)
class Options:
    """What is measured."""

    preset: str = "vflow-cifar10"
    """The model, a Flow++ or VFlow."""
    batch_size: int = 8
    """Images a step."""
    rounds: int = 3
    """Steps timed of each kind, in turns; the median counts."""
    steps: tuple[int, ...] = (4, 8, 16)
    """Checkerboard couplings at full size, for how the peaks of "block" and "coupling" grow."""
    device: str = "cpu"
    """cpu or cuda."""
    json: Path | None = None
    """File to write the results to."""


class Step:
    """Forward and backward pass of a model on random images, with dropout at work."""

    def __init__(self, options: Options, **overrides: Any) -> None:
        torch.manual_seed(0)
        model = vflow.create_model(options.preset, **overrides).to(options.device)
        shape = (options.batch_size, *model.data_shape)
        self.images = torch.randint(0, 256, shape, dtype=torch.uint8).to(options.device)
        model.mark_initialized()
        self.model = model.train()
        self()  # which makes the gradients

    def __call__(self, recompute: str = "coupling") -> None:
        """One pass: its gradients are those of the same random numbers whatever is recomputed."""
        self.model.set_recompute(recompute)
        self.model.zero_grad(set_to_none=False)
        torch.manual_seed(1)
        self.model(self.images).mean().backward()
        if self.images.is_cuda:
            torch.cuda.synchronize()

    def peak(self, options: Options, recompute: str) -> int | None:
        """Bytes that a pass needs above what there was before it."""
        return peak_memory(lambda: self(recompute), options.device)

    def tensors(self, options: Options, recompute: str) -> int | None:
        """Bytes of its tensors alone."""
        if options.device == "cuda":
            return self.peak(options, recompute)
        return peak_tensors(lambda: self(recompute))

    def gradients(self) -> list[torch.Tensor]:
        """Copies of the gradients of the pass before."""
        return [p.grad.clone() for p in self.model.parameters() if p.grad is not None]


def measure(options: Options) -> dict[str, Any]:
    """Peak bytes, seconds and whether the gradients are the same bits, for each choice."""
    step = Step(options)
    seconds: dict[str, list[float]] = {choice: [] for choice in RECOMPUTE}
    rows: list[dict[str, Any]] = []
    kept: list[torch.Tensor] = []
    for choice in RECOMPUTE:
        peak = step.peak(options, choice)
        found = step.gradients()
        kept = kept or found
        same = all(map(torch.equal, kept, found))
        row: dict[str, Any] = {
            "recompute": choice,
            "peak_bytes": peak,
            "peak_tensor_bytes": step.tensors(options, choice),
            "same_gradients": same,
        }
        rows.append(row)
    for _ in range(options.rounds):
        for choice in RECOMPUTE:
            step(choice)  # fetches from the system what another choice gave back
            start = time.perf_counter()
            step(choice)
            seconds[choice].append(time.perf_counter() - start)
    for row in rows:
        row["seconds"] = statistics.median(seconds[row["recompute"]])
    return {
        "machine": describe(options.device),
        "glibc": {
            "version": "-".join(platform.libc_ver()),
            "tunables": os.environ.get("GLIBC_TUNABLES", ""),
        },
        "preset": options.preset,
        "batch_size": options.batch_size,
        "rows": rows,
        "growth": [row for count in options.steps for row in _longer(options, count)],
    }


def _longer(options: Options, count: int) -> list[dict[str, Any]]:
    scales = [[["checkerboard", count], ["channel", 2]], [["checkerboard", 3]]]
    step = Step(options, scales=scales)
    return [
        {
            "checkerboard_couplings": count,
            "recompute": choice,
            "peak_bytes": step.peak(options, choice),
            "peak_tensor_bytes": step.tensors(options, choice),
        }
        for choice in RECOMPUTE[1:]
    ]


def show(result: dict[str, Any]) -> None:
    """Print the tables."""
    first = result["rows"][0]
    print(f"{result['preset']}, batch {result['batch_size']}, forward and backward pass")
    for row in result["rows"]:
        text = f"  {row['recompute']:10} {row['seconds']:8.2f} s"
        text += f" {row['seconds'] / first['seconds']:5.2f} x  {_memory(row, first)}"
        print(text + ("" if row["same_gradients"] else "  other gradients"))
    for row in result["growth"]:
        couplings = f"{row['checkerboard_couplings']:2} checkerboard couplings"
        print(f"  {row['recompute']:10} {couplings}  {_memory(row, first)}")


def _memory(row: dict[str, Any], first: dict[str, Any]) -> str:
    texts = []
    for what, field in (("peak", "peak_bytes"), ("tensors", "peak_tensor_bytes")):
        if row[field] is not None:
            share = row[field] / first[field]
            texts.append(f"{what} {row[field] / 2**20:6.0f} MiB {share:6.1%}")
    return "  ".join(texts)


@one_line_errors
def main() -> None:
    """Measure, print, write."""
    options = tyro.cli(Options, description=__doc__)
    result = measure(options)
    show(result)
    if options.json is not None:
        write_json(options.json, result)


if __name__ == "__main__":
    main()
