"""All that only a GPU can say, stage by stage, within 8 minutes.

    scripts/gpu_check.sh             on a machine with a CUDA device, a CUDA build of torch and nvcc
    scripts/gpu_check.sh --only speed racecheck   stages whose names begin so, in a later run
    scripts/gpu_check.sh --rehearse  the same stages where there is no GPU, on the CPU, to try them

Builds the libraries, runs the tests of the kernels on the device (CUDA graphs and torch.compile
among them), times the operations and whole models, and watches every operation with
compute-sanitizer. A stage that fails, or takes more than its time, does not keep the next from
running; one for which no time is left is skipped, and can be run later by its name. What each came
to is kept in bench/results/gpu-check-DEVICE.json, beside the figures of the benchmarks. Where
csrc/cuda turns out faster than Triton, `Operation(..., first="cuda")` makes it the default.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path("bench/results")
LIBRARY = ROOT / "vflow" / "_lib" / "libvflow_cuda.so"
SECONDS = 470
"""For all stages together."""
LEAST_SECONDS = 10
"""A stage with less time than this is not begun."""
PATIENCE_SECONDS = 5
"""For a stage out of time to say what it has found so far."""
OPERATIONS = (
    *("mixlogistic", "gated_residual_norm", "actnorm_conv1x1"),
    *("concat_elu", "concat_elu_dropout", "dropout"),
)
"""What there are GPU kernels of, the most telling first."""
FOUND_BY_SANITIZER = 86
"""An exit status that Python itself does not give."""
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


def stages(device: str, architecture: str | None) -> list[Stage]:
    """The stages, the most telling first.

    Args:
        device: The device's name, for the names of files.
        architecture: What to compile csrc/cuda for, such as "90a-real"; None to rehearse on the
            CPU, where tests are only collected and benchmarks are short.
    """
    rehearse = architecture is None
    python, where = sys.executable, "cpu" if rehearse else "cuda"
    backends = ("cpu",) if rehearse else ("triton", "cuda")
    brief = ("--rounds", "1") if rehearse else ()

    def speed(operation: str, dtype: str) -> Stage:
        results = str(RESULTS / f"ops-{device}-{operation}-{dtype}.json")
        what = ("--only", operation, "--dtype", dtype, "--device", where, *brief)
        command = (python, "bench/ops.py", "--no-gate", *what, "--json", results)
        return Stage(name=f"speed of {operation}, {dtype}", command=command, seconds=90)

    def every_operation(backend: str) -> tuple[str, ...]:
        dtypes = ("--dtypes", "float32", "bfloat16")
        return (python, "scripts/every_operation.py", "--backend", backend, *dtypes)

    def watched(tool: str, backend: str, **environment: str) -> Stage:
        watch: tuple[str, ...] = ("compute-sanitizer", "--tool", tool, "--report-api-errors", "no")
        watch += ("--target-processes", "application-only")
        watch += ("--error-exitcode", str(FOUND_BY_SANITIZER))
        command = (() if rehearse else watch) + every_operation(backend)
        return Stage(
            name=f"{tool}, {backend}", command=command, seconds=90, environment=environment
        )

    install = (python, "-m", "pip", "install", "--no-deps", "--no-build-isolation")
    # Where it is on, a CUDA library that does not build is an error.
    build = "-DVFLOW_CUDA=OFF"
    if not rehearse:
        build = f"-DVFLOW_CUDA=ON -DCMAKE_CUDA_ARCHITECTURES={architecture}"
    pytest = (python, "-m", "pytest", "-q", "--tb=short", "--maxfail", "20")
    pytest += ("--collect-only",) if rehearse else ("-n", "8")
    tests = ("tests/kernels", "tests/train/test_cuda.py")
    compiling = ("test_compiled", "test_compiled_cuda")  # for other GPUs: no need of this one
    elsewhere = (f"--ignore=tests/kernels/{name}.py" for name in compiling)
    presets = ("vflow-tiny",) if rehearse else ("vflow-cifar10",)
    configurations = ("kernels",) if rehearse else ("kernels", "bf16", "bf16+graph")
    models = (python, "bench/throughput.py", "--no-inference", "--device", where, *brief)
    models += ("--presets", *presets, "--configurations", *configurations)
    models += ("--json", str(RESULTS / f"throughput-{device}.json"))
    # Without the caching allocator every tensor has an end that can be overrun.
    uncached = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    return [
        Stage(
            name="build",
            command=(*install, "--editable", "."),
            seconds=240,
            environment={"VFLOW_CMAKE_ARGS": build},
        ),
        Stage(name="info", command=(python, "-m", "vflow", "info"), seconds=30),
        Stage(name="tests", command=(*pytest, *elsewhere, *tests), seconds=180),
        *(speed(operation, "float32") for operation in OPERATIONS[:2]),
        *(speed(operation, "bfloat16") for operation in OPERATIONS[:2]),
        *(
            Stage(name=f"every operation, {backend}", command=every_operation(backend), seconds=90)
            for backend in backends
        ),
        *(watched("memcheck", backend, **uncached) for backend in backends),
        *(watched("racecheck", backend) for backend in backends),
        Stage(name="speed of models", command=models, seconds=120),
        *(speed(operation, "float32") for operation in OPERATIONS[2:]),
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
    # What a shell runs in the background ignores interrupts, and so would the stages.
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(
        stage.command,
        cwd=ROOT,
        env=_environment(stage.environment),
        start_new_session=True,
    )
    try:
        code = process.wait(min(seconds, stage.seconds))
    except subprocess.TimeoutExpired:
        return outcome(OUT_OF_TIME)
    finally:
        _end(process)
    if code == FOUND_BY_SANITIZER:
        return outcome(f"{FAILED}: the sanitizer found something")
    return outcome(PASSED if code == 0 else f"{FAILED}: exit status {code}")


def _environment(changes: dict[str, str]) -> dict[str, str]:
    """This process's, with bench, tests and vflow to be found besides."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), **changes}


def _end(process: subprocess.Popen[bytes]) -> None:
    """Interrupt a process that still runs, as Ctrl-C would; then kill it and what it has begun."""
    if process.poll() is not None:
        return
    os.killpg(process.pid, signal.SIGINT)
    try:
        process.wait(PATIENCE_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def check(chosen: list[Stage], path: Path, seconds: float, device: str) -> list[Outcome]:
    """Run the stages within `seconds`, and write what they come to as soon as each is known.

    Stages of an earlier run that are not run again keep their outcome.

    Args:
        chosen: The stages.
        path: Where to write.
        seconds: For all of them.
        device: "cpu" or "cuda", to describe the machine.
    """
    from vflow.runtime.files import read_json, write_json

    end, outcomes = time.monotonic() + seconds, []
    known: dict[str, Any] = {}
    machine: dict[str, Any] | None = None
    if path.exists():
        known = {stage["name"]: stage for stage in read_json(path)["stages"]}
    for stage in chosen:
        outcome = run(stage, end - time.monotonic())
        outcomes.append(outcome)
        known[stage.name] = dataclasses.asdict(outcome)
        # After the first stage: it is the build, unless the libraries are there already.
        machine = machine or _machine(device)
        write_json(path, {"machine": machine, "stages": list(known.values())})
    return outcomes


def _machine(device: str) -> dict[str, Any]:
    """`bench.machine.describe` in a process of its own, which sees what has just been built."""
    code = (
        "import json, sys; from bench.machine import describe; "
        "print(json.dumps(describe(sys.argv[1])))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, device],
        cwd=ROOT,
        env=_environment({}),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    machine: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return machine


def choose(every: list[Stage], only: list[str]) -> list[Stage]:
    """The stages whose names begin so, and the build before them where there is no library yet.

    Raises:
        ValueError: If there are none.
    """
    chosen = [stage for stage in every if stage.name.startswith(tuple(only))]
    if not chosen:
        names = ", ".join(stage.name for stage in every)
        raise ValueError(f"only must begin the name of a stage ({names}), got {' '.join(only)}")
    if chosen[0].name != "build" and not LIBRARY.exists():
        chosen = [stage for stage in every if stage.name == "build"] + chosen
    return chosen


def main() -> None:
    """Run all stages, print a table; the exit status is 1 unless every one has passed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rehearse", action="store_true", help="try the stages on the CPU")
    parser.add_argument("--only", nargs="+", default=[""], help="how stages' names begin")
    arguments = parser.parse_args()
    import torch

    device, architecture = "rehearsal", None
    if not arguments.rehearse:
        if not torch.cuda.is_available():
            raise SystemExit("gpu_check needs a CUDA device and a build of torch that sees it")
        device = torch.cuda.get_device_name().replace(" ", "-").lower()
        major, minor = torch.cuda.get_device_capability()
        architecture = f"{major}{minor}{'a' if major == 9 else ''}-real"
    try:
        chosen = choose(stages(device, architecture), arguments.only)
    except ValueError as error:
        parser.error(str(error))
    # So that a stage does not outlive this when somebody else ends it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    path = ROOT / RESULTS / f"gpu-check-{device}.json"
    outcomes = check(chosen, path, SECONDS, "cpu" if arguments.rehearse else "cuda")
    print()
    for outcome in outcomes:
        print(f"{outcome.name:32} {outcome.seconds:6.1f} s  {outcome.result}")
    print(f"written to {path}")
    if any(outcome.result != PASSED for outcome in outcomes):
        raise SystemExit(1)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))  # for vflow where it is not installed yet
    main()
