"""All that only a GPU can say, in under 8 minutes, stage by stage.

    scripts/gpu_check.sh             on a machine with a CUDA device, a CUDA build of torch and nvcc
    scripts/gpu_check.sh --only speed racecheck   stages whose names begin so, in a later run
    scripts/gpu_check.sh --rehearse  the same stages where there is no GPU, on the CPU, to try them

Builds the libraries, runs the tests of the kernels on the device (CUDA graphs and torch.compile
among them), times the operations and whole models, and watches every operation with
compute-sanitizer. A stage that fails, or takes more than its time, does not keep the next from
running. What each came to is written to bench/results/gpu-check-DEVICE.json as soon as it is known,
beside the figures of the benchmarks; where csrc/cuda turns out faster than Triton,
`Operation(..., first="cuda")` makes it the default.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path("bench/results")
SECONDS = 470
"""For all stages together."""
LEAST_SECONDS = 10
"""A stage with less time than this is not begun."""
OPERATIONS = (
    *("mixlogistic", "gated_residual_norm", "actnorm_conv1x1"),
    *("concat_elu", "concat_elu_dropout", "dropout"),
)
"""What there are kernels of, the most telling first."""
PASSED, FAILED, OUT_OF_TIME, SKIPPED = "passed", "failed", "out of time", "skipped"


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One command, and how long it may take."""

    name: str
    command: tuple[str, ...]
    seconds: int
    environment: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a stage came to."""

    name: str
    result: str
    seconds: float
    command: str


def stages(device: str, rehearse: bool) -> list[Stage]:
    """The stages, the most telling first.

    Args:
        device: The device's name, for the names of files.
        rehearse: Whether to try them on the CPU: tests are only collected, benchmarks are short.
    """
    python, where = sys.executable, "cpu" if rehearse else "cuda"
    brief = ("--rounds", "1") if rehearse else ()
    pytest = (python, "-m", "pytest", "-q", "--maxfail", "20", "-n", "8")
    collect = ("--collect-only", "-n", "0") if rehearse else ()
    install = (python, "-m", "pip", "install", "--no-deps", "--no-build-isolation")

    def speed(operation: str, dtype: str) -> Stage:
        results = str(RESULTS / f"ops-{device}-{operation}-{dtype}.json")
        what = ("--only", operation, "--dtype", dtype, "--device", where, *brief)
        command = (python, "bench/ops.py", "--no-gate", *what, "--json", results)
        return Stage(name=f"speed of {operation}, {dtype}", command=command, seconds=60)

    def watched(tool: str, backend: str) -> Stage:
        command = (python, "scripts/every_operation.py", "--backend", backend)
        if not rehearse:
            command = ("compute-sanitizer", "--tool", tool, "--error-exitcode", "1", *command)
        # Without the caching allocator every tensor has an end that can be overrun.
        environment = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
        return Stage(
            name=f"{tool}, {backend}", command=command, seconds=60, environment=environment
        )

    presets = ("vflow-tiny",) if rehearse else ("vflow-cifar10",)
    results = str(RESULTS / f"throughput-{device}.json")
    models = (python, "bench/throughput.py", "--presets", *presets, "--device", where, *brief)
    backends = ("cpu",) if rehearse else ("triton", "cuda")
    return [
        Stage(name="build", command=(*install, "--editable", "."), seconds=150),
        Stage(name="info", command=(python, "-m", "vflow", "info"), seconds=30),
        Stage(
            name="tests",
            command=(*pytest, *collect, "tests/kernels", "tests/train/test_cuda.py"),
            seconds=180,
        ),
        *(speed(operation, "float32") for operation in OPERATIONS[:3]),
        *(speed(operation, "bfloat16") for operation in OPERATIONS[:2]),
        *(watched("memcheck", backend) for backend in backends),
        Stage(name="speed of models", command=(*models, "--json", results), seconds=120),
        *(watched("racecheck", backend) for backend in backends),
        *(speed(operation, "float32") for operation in OPERATIONS[3:]),
    ]


def run(stage: Stage, seconds: float) -> Outcome:
    """Run a stage, its output as it comes; end it and its children when the time is over."""

    def outcome(result: str) -> Outcome:
        spent = round(time.monotonic() - began, 1)
        return Outcome(
            name=stage.name, result=result, seconds=spent, command=" ".join(stage.command)
        )

    began = time.monotonic()
    if seconds < LEAST_SECONDS:
        return outcome(f"{SKIPPED}: no time was left")
    if shutil.which(stage.command[0]) is None:
        return outcome(f"{SKIPPED}: {stage.command[0]} is not on PATH")
    print(f"\n== {stage.name}", flush=True)
    process = subprocess.Popen(
        stage.command,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **stage.environment},
        start_new_session=True,
    )
    try:
        code = process.wait(min(seconds, stage.seconds))
    except subprocess.TimeoutExpired:
        return outcome(OUT_OF_TIME)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return outcome(PASSED if code == 0 else f"{FAILED}: exit status {code}")


def check(chosen: list[Stage], path: Path, seconds: float) -> list[Outcome]:
    """Run the stages within `seconds`, and write what they come to as soon as each is known."""
    from bench.machine import describe
    from vflow.files import write_json

    end, outcomes = time.monotonic() + seconds, []
    for stage in chosen:
        outcomes.append(run(stage, end - time.monotonic()))
        about = {"stages": [dataclasses.asdict(outcome) for outcome in outcomes]}
        write_json(path, {"machine": describe(_device_type()), **about})
    return outcomes


def _device_type() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def main() -> None:
    """Run all stages, print a table; the exit status is 1 unless every one has passed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rehearse", action="store_true", help="try the stages on the CPU")
    parser.add_argument("--only", nargs="+", default=[""], help="how stages' names begin")
    arguments = parser.parse_args()
    rehearse = arguments.rehearse
    import torch

    if not rehearse and not torch.cuda.is_available():
        raise SystemExit("gpu_check needs a CUDA device and a build of torch that sees it")
    device = "rehearsal" if rehearse else torch.cuda.get_device_name().replace(" ", "-").lower()
    path = ROOT / RESULTS / f"gpu-check-{device}.json"
    chosen = [s for s in stages(device, rehearse) if s.name.startswith(tuple(arguments.only))]
    outcomes = check(chosen, path, SECONDS)
    print()
    for outcome in outcomes:
        print(f"{outcome.name:32} {outcome.seconds:6.1f} s  {outcome.result}")
    print(f"written to {path}")
    if any(outcome.result != PASSED for outcome in outcomes):
        raise SystemExit(1)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))  # for bench and tests, which are not installed
    main()
