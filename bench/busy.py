"""Several trainings at once on the CPU, against one alone, by how long OpenMP's threads spin.

`measure_busy` starts this file in as many processes; all of them train until each has told what it
made in the same stretch of time.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import vflow  # noqa: F401, before torch, for the spin of its threads

# isort: split
import torch

from bench.configurations import CONFIGURATIONS
from vflow.runtime.console import RunStopped
from vflow.runtime.threads import SPIN_COUNT, VARIABLE, WAIT_POLICY

SPINS = {"libgomp's own": "300000", "short": SPIN_COUNT}
"""What GOMP_SPINCOUNT is set to. libgomp's own choice has to be, or vflow would make it short."""
SECONDS = 10.0
"""For which every process counts its images."""
READY, GO = "ready", "go"


def measure_busy(
    preset: str, batch_size: int, processes: int, rounds: int, seconds: float = SECONDS
) -> dict[str, Any]:
    """Images a second of one training and of several at once, for each spin, as medians.

    Args:
        preset: The model.
        batch_size: Images a step of each process.
        processes: How many at once.
        rounds: Times that all of it is measured, in turns.
        seconds: For which images are counted.

    Raises:
        RunStopped: If a process fails.
    """
    rates: dict[tuple[str, int], list[float]] = {}
    for _ in range(rounds):
        for count in (1, processes):
            for name, spin in SPINS.items():
                rate = train_together(preset, batch_size, count, seconds, spin)
                rates.setdefault((name, count), []).append(rate)
    rows = []
    for name, spin in SPINS.items():
        alone, together = (statistics.median(rates[name, count]) for count in (1, processes))
        rows.append(
            {
                "spin": name,
                "gomp_spincount": int(spin),
                "alone_images_per_second": alone,
                "together_images_per_second": together,
                "together_against_alone": together / alone,
            }
        )
    return {"preset": preset, "batch_size": batch_size, "processes": processes, "busy": rows}


def train_together(
    preset: str, batch_size: int, processes: int, seconds: float, spin: str
) -> float:
    """Images a second of so many trainings together.

    Raises:
        RunStopped: If one fails.
    """
    environment = {**os.environ, VARIABLE: spin}
    environment.pop(WAIT_POLICY, None)
    command = [sys.executable, __file__, preset, str(batch_size), str(seconds)]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    started = [subprocess.Popen(command, env=environment, **pipes) for _ in range(processes)]
    try:
        for process in started:
            _expect(process)
        for process in started:
            assert process.stdin is not None
            process.stdin.write(f"{GO}\n")
            process.stdin.flush()
        return sum(json.loads(_expect(process)) for process in started)
    finally:
        for process in started:
            process.kill()
            process.communicate()


def _expect(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise RunStopped("a training failed; the reason is above")
    return line


def print_busy(result: dict[str, Any]) -> None:
    """Print a line for each spin."""
    print(
        f"\n{result['preset']}, batch {result['batch_size']}: images/s of one training alone and "
        f"of {result['processes']} at once, {torch.get_num_threads()} threads each\n"
        f"  {'spin':<24} {'alone':>9} {'together':>9}"
    )
    for row in result["busy"]:
        name = f"{row['spin']} ({row['gomp_spincount']:,})"
        print(
            f"  {name:<24} {row['alone_images_per_second']:9.2f} "
            f"{row['together_images_per_second']:9.2f} {row['together_against_alone']:6.2f} x"
        )


def _train(preset: str, batch_size: int, seconds: float) -> None:
    """Train until the caller ends this process; after some time print images a second until then.

    It goes on training, so that the others' time is no less busy.
    """
    trainer = CONFIGURATIONS["kernels"].trainer(preset, batch_size, torch.device("cpu"))
    for _ in range(2):
        trainer.take_step(lambda: False)
    print(READY, flush=True)
    sys.stdin.readline()
    began, steps, told = time.perf_counter(), 0, False
    while True:
        trainer.take_step(lambda: False)
        steps, passed = steps + 1, time.perf_counter() - began
        if passed >= seconds and not told:
            print(json.dumps(steps * batch_size / passed), flush=True)
            told = True


if __name__ == "__main__":
    _train(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))
