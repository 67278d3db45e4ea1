"""How fast the operations are, beside plain PyTorch and torch.compile of it.

    python bench/ops.py
    python bench/ops.py --only mixlogistic --json bench/results/mine.json

Runs the operations' tests first and prints nothing about speed if they are red. pytest-benchmark
times the candidates of a case one after the other, in one run; bench/ops_cases.py says what they
are. The ratios are of medians. Of a GB/s, the numbers that must be read and written are counted
once; the fraction is that of a plain copy of memory, measured here (self_attention, whose work
grows with the square of the positions, and conv3x3, whose work grows with that of the channels, are
bound by arithmetic instead). On a GPU all these are of
the time on the device; that of a call, from Python to its end, stands beside it.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # for `python bench/ops.py`

import vflow  # noqa: F401, before torch, for the spin of its threads

# isort: split
import torch

from bench.machine import copy_bandwidth, describe
from bench.ops_cases import DTYPES, Case, cases
from vflow.io.fields import require_choice
from vflow.runtime.console import RunStopped, one_line_errors
from vflow.runtime.extras import require, tyro
from vflow.runtime.files import write_json

if TYPE_CHECKING:
    import pytest

ROOT = Path(__file__).resolve().parent.parent
SPEED = ROOT / "bench" / "ops_speed.py"
BASELINES = ("eager", "compile", "reference", "bisection")
FOR_THIS_MACHINE = "not instruction_set and not other_processors"
GATES = {"cpu": ("tests/ops",), "cuda": ("tests/ops", "tests/kernels")}


@dataclass(frozen=True, kw_only=True)
class Options:
    """Speed of the operations at the paper's sizes, batch 64."""

    only: tuple[str, ...] = ()
    """Operations to time, by name; all by default."""
    dtype: str = "float32"
    """float32 or bfloat16: of all inputs."""
    rounds: int = 15
    """Timed calls of each candidate."""
    device: str = field(default_factory=lambda: "cuda" if torch.cuda.is_available() else "cpu")
    """cpu or cuda."""
    threads: int | None = None
    """CPU threads; torch's own choice by default."""
    gate: bool = True
    """Run the operations' tests first."""
    json: Path | None = None
    """Write the results here."""

    def __post_init__(self) -> None:
        """Check the fields that are names.

        Raises:
            ValueError: Naming the field, what it must be and what it is.
        """
        require_choice("dtype", self.dtype, tuple(DTYPES))
        require_choice("device", self.device, tuple(GATES))
        if self.device == "cuda" and not torch.cuda.is_available():
            raise ValueError("device must be cpu here, as torch sees no CUDA device, got 'cuda'")


class Parameters:
    """Gives bench/ops_speed.py its cases."""

    def __init__(self, chosen: list[Case], options: Options) -> None:
        self.chosen = chosen
        self.options = options

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """One test a candidate."""
        device = self.options.device
        rows = [(case, name) for case in self.chosen for name in case.candidates(device)]
        metafunc.parametrize(
            ("case", "candidate"), rows, ids=[case.name(candidate) for case, candidate in rows]
        )
        metafunc.parametrize("device", [device], ids=[""])
        metafunc.parametrize("dtype", [self.options.dtype], ids=[""])
        metafunc.parametrize("rounds", [self.options.rounds], ids=[""])


def choose(options: Options) -> list[Case]:
    """The cases asked for.

    Raises:
        ValueError: If an operation is not known.
    """
    every = list(cases())
    known = {case.operation for case in every}
    for name in options.only:
        if name not in known:
            raise ValueError(f"only must name some of {', '.join(sorted(known))}, got {name!r}")
    return [case for case in every if not options.only or case.operation in options.only]


def run_gate(device: str) -> None:
    """Run the operations' tests, on a GPU those of its kernels too.

    Raises:
        RunStopped: If they are red.
    """
    print("running the operations' tests", flush=True)
    tests = subprocess.run(
        [sys.executable, "-m", "pytest", "-x", *GATES[device], "-k", FOR_THIS_MACHINE],
        cwd=ROOT,
        check=False,
    )
    if tests.returncode:
        raise RunStopped("the operations' tests fail: no speed is reported for a wrong result")


def measure(chosen: list[Case], options: Options) -> list[dict[str, Any]]:
    """Time every candidate.

    Raises:
        RunStopped: If one of them fails.
    """
    import pytest  # with pytest-benchmark, as an extra

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "benchmark.json"
        code = pytest.main(
            [
                *[str(SPEED), "-p", "no:cacheprovider", "-p", "pytest_benchmark.plugin"],
                "--benchmark-only",
                *[f"--benchmark-json={path}", "--benchmark-quiet", "--no-header"],
            ],
            plugins=[Parameters(chosen, options)],
        )
        if code:
            raise RunStopped("a candidate failed; the reason is above")
        report = json.loads(path.read_text())
    return [
        {
            **entry["extra_info"],
            **{key: entry["stats"][key] for key in ("median", "min", "iqr", "rounds")},
        }
        for entry in report["benchmarks"]
    ]


def seconds_of(row: dict[str, Any]) -> float:
    """What a candidate's rates and ratios are of: the time on the device, where there is one."""
    seconds: float = row["device_seconds"] or row["median"]
    return seconds


def compare(rows: list[dict[str, Any]], copy_rate: float) -> list[dict[str, Any]]:
    """Add the rates, and the speed of ours as a multiple of each baseline's."""
    compared = []
    for _, group in groupby(rows, key=lambda row: (row["operation"], row["size"], row["kind"])):
        entries = list(group)
        times = {row["candidate"]: seconds_of(row) for row in entries}
        baselines = [name for name in BASELINES if name in times]
        for row in entries:
            seconds = times[row["candidate"]]
            row["gigabytes_per_second"] = row["bytes"] / seconds / 1e9
            row["fraction_of_copy"] = row["bytes"] / seconds / copy_rate
            if row["candidate"] not in BASELINES:
                row["times_as_fast_as"] = {name: times[name] / seconds for name in baselines}
        compared += entries
    return compared


def print_table(rows: list[dict[str, Any]]) -> None:
    """Print a block for each case."""
    for (operation, size, kind), group in groupby(
        rows, key=lambda row: (row["operation"], row["size"], row["kind"])
    ):
        print(f"\n{operation}, {kind}: {size}")
        for row in group:
            peak = row["peak_bytes"]
            memory = "" if peak is None else f"  peak {peak / 2**20:7.1f} MiB"
            digits, call = 2, ""
            if row["device_seconds"] is not None:
                digits, call = 4, f"  call {row['median'] * 1e3:8.3f} ms"
            ratios = row.get("times_as_fast_as", {})
            beside = ", ".join(f"{ratio:.1f} x {name}" for name, ratio in ratios.items())
            print(
                f"  {row['candidate']:10} {seconds_of(row) * 1e3:9.{digits}f} ms "
                f"{row['gigabytes_per_second']:6.1f} GB/s {row['fraction_of_copy']:6.1%} of copy"
                f"{call}{memory}  {beside}"
            )


@one_line_errors
def main() -> None:
    """Check, measure, print a table, write JSON."""
    options = tyro.cli(Options, prog="bench/ops.py", description=__doc__)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    chosen = choose(options)
    require("pytest_benchmark", "bench/ops.py")
    if options.gate:
        run_gate(options.device)
    began = time.monotonic()
    copies = [copy_bandwidth(options.device)]
    rows = measure(chosen, options)
    copies.append(copy_bandwidth(options.device))
    copy_rate = statistics.mean(copies)
    rows = compare(rows, copy_rate)
    print_table(rows)
    before, after = (rate / 1e9 for rate in copies)
    print(f"\ncopy: {before:.1f} GB/s before, {after:.1f} after; {time.monotonic() - began:.0f} s")
    if options.json is not None:
        machine = {**describe(options.device), "copy_gigabytes_per_second": copy_rate / 1e9}
        about = {"machine": machine, "dtype": options.dtype, "rounds": options.rounds}
        write_json(options.json, {**about, "results": rows})
        print(f"written to {options.json}")


if __name__ == "__main__":
    main()
