"""Training in several processes: how much faster than in one, each with a batch of its own.

`measure_scaling` starts this file under torchrun, once with one process and once with all.
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
from torch.nn.parallel import DistributedDataParallel

from bench.configurations import CONFIGURATIONS
from vflow.runtime.console import RunStopped
from vflow.runtime.distributed import Ranks
from vflow.train.trainer import Trainer


def measure_scaling(
    preset: str, batch_size: int, ranks: int, device: str, rounds: int
) -> dict[str, Any]:
    """Images a second in one process and in `ranks`, with as many CPU threads in each.

    Args:
        preset: The model.
        batch_size: Images a step of each process.
        ranks: How many.
        device: cpu or cuda, which has to have as many devices.
        rounds: Steps timed; the median counts.

    Raises:
        RunStopped: If a process fails.
    """
    threads = max(1, (os.cpu_count() or 1) // ranks)
    one, all_of_them = (
        _torchrun(preset, batch_size, count, device, rounds, threads) for count in (1, ranks)
    )
    alone = one["images_per_second"]
    return {
        **all_of_them,
        "ranks": ranks,
        "threads": threads,
        "one_rank_images_per_second": alone,
        "efficiency": all_of_them["images_per_second"] / (ranks * alone),
    }


def _torchrun(
    preset: str, batch_size: int, ranks: int, device: str, rounds: int, threads: int
) -> dict[str, Any]:
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"]
    arguments = [preset, str(batch_size), device, str(rounds)]
    done = subprocess.run(
        [sys.executable, *launcher, __file__, *arguments],
        env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RunStopped(f"{ranks} ranks failed; the reason is above")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def _measure(preset: str, batch_size: int, device_name: str, rounds: int) -> None:
    """In every process: time the steps; the first prints images a second."""
    ranks = Ranks.from_environment()
    device = ranks.device(device_name)
    with ranks.group(device):
        configuration = CONFIGURATIONS["kernels"]
        trainer = configuration.trainer(preset, batch_size * ranks.size, device, ranks=ranks)
        times = []
        for _ in range(rounds + 2):
            start = time.perf_counter()
            trainer.take_step(lambda: False)
            if device.type == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter() - start)
        if ranks.is_main:
            rate = batch_size * ranks.size / statistics.median(times[2:])
            print(json.dumps({"images_per_second": rate, **_messages(trainer)}))


def _messages(trainer: Trainer) -> dict[str, Any]:
    """What DistributedDataParallel says of its sums: bytes a step, seconds, and how many hide."""
    if not isinstance(trainer.forward, DistributedDataParallel):
        return {}
    data = trainer.forward._get_ddp_logging_data()
    buckets = [int(size) for size in data["rebuilt_bucket_sizes"].split(",")]
    seconds = {
        name: data[f"avg_backward_{key}_time"] / 1e9
        for name, key in (
            ("backward_seconds", "compute"),
            ("sum_seconds", "comm"),
            ("hidden_seconds", "compute_comm_overlap"),
        )
    }
    return {"summed_bytes": sum(buckets), "buckets": len(buckets), **seconds}


if __name__ == "__main__":
    _measure(sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
