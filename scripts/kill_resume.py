"""Kill a training run at random moments, start it again, and compare what it leaves.

A run of a tiny model is killed with SIGKILL (nothing can be caught or tidied up) while it trains,
and started again with the same command until it has finished. Its last checkpoint, its finished
model and its metrics (but for the time they took) must be those of a run that nobody interrupted,
bit for bit. Checkpoints are written every few steps, so that kills fall into the writing of them
too.

    python scripts/kill_resume.py --kills 20
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

KILLS_A_RUN = 5
TIMINGS = ("seconds", "images_per_second")


def command(folder: Path, steps: int, name: str) -> list[str]:
    """The command line of the run."""
    flags = f"""
        --out {folder / name} --data npy:{folder / "images.npz"} --preset flowpp-tiny
        --model.filters 4 --model.components 2 --model.dropout 0.1 --optim.warmup 10 --optim.ema 0.9
        --batch-size 8 --steps {steps} --device cpu
        --log-every 2 --checkpoint-every 3 --eval-every 7 --sample-every 0 --keep 2
    """
    return [sys.executable, "-m", "vflow.train", *flags.split()]


def write_images(path: Path) -> None:
    """80 smooth 8x8 training images and 20 test images."""
    rng = np.random.default_rng(0)
    blocks = rng.integers(0, 256, (100, 2, 2, 3)).repeat(4, axis=1).repeat(4, axis=2)
    images = (blocks + rng.normal(0, 8, blocks.shape)).clip(0, 255).astype(np.uint8)
    np.savez(path, train=images[:80], test=images[80:])


def fingerprint(run: Path) -> dict[str, str]:
    """Digests of all that a finished run leaves, but for the time it took."""
    files = sorted(max((run / "checkpoints").glob("step-*")).glob("*.safetensors"))
    files.append(run / "model" / "model.safetensors")
    digests = {
        str(file.relative_to(run)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files
    }
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    timeless = [{k: v for k, v in record.items() if k not in TIMINGS} for record in records]
    digests["metrics"] = hashlib.sha256(json.dumps(timeless).encode()).hexdigest()
    return digests


def newest_step(run: Path) -> int:
    """The step of the newest checkpoint, 0 without one."""
    steps = [int(path.name[5:]) for path in (run / "checkpoints").glob("step-*")]
    return max(steps, default=0)


def start(line: list[str]) -> subprocess.Popen[str]:
    """Start a run, on one thread, as bit-identity wants, and wait until it trains.

    Importing takes longer than such a run's steps; what it prints first comes after that.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(line, stdout=subprocess.PIPE, env=environment, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    return process


def finish(line: list[str]) -> float:
    """Run to the end: the seconds it trains."""
    process = start(line)
    started = time.monotonic()
    process.communicate()
    if process.returncode != 0:
        raise SystemExit(f"failed: {' '.join(line)}")
    return time.monotonic() - started


def main() -> None:
    """Kill, compare, and exit with code 1 if anything differs."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=20, help="kills in all (default 20)")
    parser.add_argument("--steps", type=int, default=60, help="steps of the run (default 60)")
    parser.add_argument("--seed", type=int, default=None, help="seed of the moments of the kills")
    arguments = parser.parse_args()
    seed = random.randrange(2**32) if arguments.seed is None else arguments.seed
    moments = random.Random(seed)

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_images(folder / "images.npz")
        seconds = finish(command(folder, arguments.steps, "whole"))
        whole = fingerprint(folder / "whole")
        print(
            f"uninterrupted: {arguments.steps} steps in {seconds:.1f} s; kill seed {seed}",
            flush=True,
        )

        kills, runs, identical = 0, 0, True
        while kills < arguments.kills:
            runs += 1
            run = folder / f"run-{runs}"
            line = command(folder, arguments.steps, run.name)
            wanted = min(KILLS_A_RUN, arguments.kills - kills)
            for _ in range(wanted):
                left = 1 - newest_step(run) / arguments.steps
                if left <= 0:
                    break
                delay = moments.uniform(0.0, seconds * left)
                process = start(line)
                try:
                    # The run may finish first: not a kill, and there is nothing left to kill.
                    process.communicate(timeout=delay)
                    break
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.communicate()
                kills += 1
                writing = len(list((run / "checkpoints").glob(".tmp-*")))
                torn = ", in the middle of a checkpoint" if writing else ""
                print(
                    f"kill {kills:2d} after {delay:5.2f} s: goes on from step "
                    f"{newest_step(run)}{torn}",
                    flush=True,
                )
            finish(line)
            same = fingerprint(run) == whole
            identical = identical and same
            print(f"run {runs} finished: bit-identical {'yes' if same else 'NO'}", flush=True)
    print(f"{kills} kills in {runs} runs, every run bit-identical: {'yes' if identical else 'NO'}")
    raise SystemExit(0 if identical else 1)


if __name__ == "__main__":
    main()
