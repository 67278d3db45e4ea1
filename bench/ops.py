"""How fast the operations are, beside plain PyTorch and torch.compile of it.

    python bench/ops.py
    python bench/ops.py --components 32 --batch 64 --json bench/results/mine.json

Runs the operation's tests first and prints nothing about speed if they are red. All candidates take
turns within one run, so that a busy machine slows all of them alike; the ratio is the median of the
rounds' own.
"""

from __future__ import annotations

import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import tyro
from torch import Tensor

from vflow import ops
from vflow.console import RunStopped, one_line_errors
from vflow.files import write_json
from vflow.ops import backend
from vflow.ops.reference import mixlogistic as reference

ROOT = Path(__file__).resolve().parent.parent
GATE = [
    "tests/ops/test_mixlogistic.py",
    "tests/ops/test_native.py",
    "tests/ops/test_registration.py",
]
OURS = "vflow"
BASELINE = "eager reference"


@dataclass(frozen=True, kw_only=True)
class Options:
    """Speed of mixlogistic, forward and with its gradient."""

    batch: int = 16
    """Images."""
    elements: int = 1536
    """Elements of an image that the coupling transforms: half of 32 x 32 x 3."""
    components: tuple[int, ...] = (4, 10, 32)
    """Mixture components K, one row of results each."""
    rounds: int = 20
    """Timed rounds; every candidate runs once in each."""
    device: str = field(default_factory=lambda: "cuda" if torch.cuda.is_available() else "cpu")
    """cpu or cuda."""
    threads: int | None = None
    """CPU threads; torch's own choice by default."""
    compiled: bool = True
    """Time torch.compile of the reference too (takes a minute to compile)."""
    json: Path | None = None
    """Write the results here."""


def seconds(function: Callable[[], Any], device: str) -> float:
    """Time one call, the device's work included."""
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    function()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def interleaved(
    candidates: dict[str, Callable[[], Any]], rounds: int, device: str
) -> dict[str, list[float]]:
    """Time all candidates in turns, after two rounds that do not count."""
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for i in range(rounds + 2):
        for name, function in candidates.items():
            elapsed = seconds(function, device)
            if i >= 2:
                times[name].append(elapsed)
    return times


def copy_bandwidth(device: str, rounds: int) -> float:
    """Bytes per second, read and written, of a copy that no cache holds."""
    source = torch.ones(1 << 25, device=device)
    target = torch.empty_like(source)
    times = interleaved({"copy": lambda: target.copy_(source)}, rounds, device)["copy"]
    return 2 * source.nbytes / statistics.median(times)


def uncut_forward(x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
    """The reference's forward in one piece, for torch.compile.

    Inductor fuses: cutting the work into runs that fit the cache, as eager wants it, only unrolls.
    """
    columns = params.reshape(-1, params.shape[-1]).t().contiguous()
    y, ldj = reference.forward_elements(x.reshape(-1), columns)
    return y.view(x.shape), reference.sum_per_image(ldj, x.shape[0])


def uncut_both(
    x: Tensor, params: Tensor, grad_y: Tensor, grad_logdet: Tensor
) -> tuple[Tensor, ...]:
    """The reference's forward and gradient in one piece, for torch.compile."""
    columns = params.reshape(-1, params.shape[-1]).t().contiguous()
    gl = grad_logdet[:, None].expand_as(x).reshape(-1)
    grad_x, grad_columns = reference.backward_elements(
        grad_y.reshape(-1), gl, x.reshape(-1), columns
    )
    grads = grad_x.view(x.shape), grad_columns.t().contiguous().view(params.shape)
    return (*uncut_forward(x, params), *grads)


def measure(options: Options, components: int, copy_rate: float) -> list[dict[str, Any]]:
    """Time forward and forward + backward at one number of components."""
    shape = (options.batch, options.elements)
    device = torch.device(options.device)
    x, grad_y = torch.randn(shape, device=device), torch.randn(shape, device=device)
    params = torch.randn(*shape, 2 + 3 * components, device=device)
    grad_logdet = torch.randn(options.batch, device=device)
    leaves = x.clone().requires_grad_(), params.clone().requires_grad_()

    def train_step() -> None:
        torch.autograd.grad(ops.mixlogistic(*leaves), leaves, (grad_y, grad_logdet))

    sets: dict[str, dict[str, Callable[[], Any]]] = {
        "forward": {
            BASELINE: lambda: reference.mixlogistic(x, params),
            OURS: lambda: ops.mixlogistic(x, params),
        },
        "forward + backward": {
            BASELINE: lambda: (
                reference.mixlogistic(x, params),
                reference.mixlogistic_backward(grad_y, grad_logdet, x, params),
            ),
            OURS: train_step,
        },
    }
    if options.compiled:
        compiled_forward, compiled_both = torch.compile(uncut_forward), torch.compile(uncut_both)
        sets["forward"]["torch.compile"] = lambda: compiled_forward(x, params)
        sets["forward + backward"]["torch.compile"] = lambda: compiled_both(
            x, params, grad_y, grad_logdet
        )
    inputs_and_outputs = 2 * x.nbytes + params.nbytes
    traffic = {
        "forward": inputs_and_outputs,
        # and once more the inputs, the gradient of y, and the gradients of the inputs
        "forward + backward": inputs_and_outputs + 3 * x.nbytes + 2 * params.nbytes,
    }
    rows = []
    for kind, candidates in sets.items():
        times = interleaved(candidates, options.rounds, options.device)
        for name, taken in times.items():
            rate = traffic[kind] / statistics.median(taken)
            ratios = [base / own for base, own in zip(times[BASELINE], taken, strict=True)]
            rows.append(
                {
                    "operation": "mixlogistic",
                    "kind": kind,
                    "components": components,
                    "candidate": name,
                    "milliseconds": statistics.median(taken) * 1e3,
                    "times_as_fast_as_eager": statistics.median(ratios),
                    "gigabytes_per_second": rate / 1e9,
                    "fraction_of_copy": rate / copy_rate,
                }
            )
    return rows


def run_gate() -> None:
    """Run the operation's tests.

    Raises:
        RunStopped: If they are red.
    """
    print("running the operation's tests", flush=True)
    tests = subprocess.run([sys.executable, "-m", "pytest", "-x", *GATE], cwd=ROOT, check=False)
    if tests.returncode:
        raise RunStopped("the operation's tests fail: no speed is reported for a wrong result")


@one_line_errors
def main() -> None:
    """Check, measure, print a table, write JSON."""
    options = tyro.cli(Options, prog="bench/ops.py", description=__doc__)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    run_gate()
    copy_rate = copy_bandwidth(options.device, options.rounds)
    print(f"\ncopy: {copy_rate / 1e9:.1f} GB/s, {torch.get_num_threads()} threads")
    print(f"{'':19} {'K':>3}  {'':16} {'ms':>8} {'ratio':>6} {'GB/s':>6} {'of copy':>7}")
    rows = []
    for components in options.components:
        for row in measure(options, components, copy_rate):
            rows.append(row)
            print(
                f"{row['kind']:19} {components:3}  {row['candidate']:16} "
                f"{row['milliseconds']:8.2f} "
                f"{row['times_as_fast_as_eager']:6.2f} {row['gigabytes_per_second']:6.1f} "
                f"{row['fraction_of_copy']:7.1%}"
            )
    if options.json is not None:
        machine = {
            "torch": torch.__version__,
            "platform": platform.platform(),
            "device": options.device,
            "threads": torch.get_num_threads(),
            "backends": backend.describe()["mixlogistic"],
            "copy_gigabytes_per_second": copy_rate / 1e9,
        }
        shape = {"batch": options.batch, "elements": options.elements, "rounds": options.rounds}
        write_json(options.json, {"machine": machine, "shape": shape, "results": rows})


if __name__ == "__main__":
    main()
