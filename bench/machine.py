"""What the figures belong to, and how fast this machine copies memory."""

from __future__ import annotations

import platform
import statistics
import subprocess
import time
from pathlib import Path
from typing import Any

import torch

import vflow
from vflow.ops import backend, native
from vflow.runtime.tf32 import tf32
from vflow.runtime.threads import describe_spin

COPY_NUMBERS = 1 << 25
MATRIX_SIZE = {"cpu": 1536, "cuda": 8192}


def copy_bandwidth(device: str, rounds: int = 20) -> float:
    """Bytes per second, read and written, of a copy that no cache holds."""
    source = torch.ones(COPY_NUMBERS, device=device)
    target = torch.empty_like(source)
    copies = 20 if device == "cuda" else 1  # a launch takes a good part of a GPU's copy
    times = []
    for _ in range(rounds + 2):
        start = time.perf_counter()
        for _ in range(copies):
            target.copy_(source)
        if device == "cuda":
            torch.cuda.synchronize()
        times.append((time.perf_counter() - start) / copies)
    return 2 * source.nbytes / statistics.median(times[2:])


def matrix_product_rate(device: str, dtype: torch.dtype = torch.float32, rounds: int = 8) -> float:
    """FLOP/s of a square matrix product, the median of some.

    Factors of float32 are not rounded to TensorFloat-32.
    """
    size = MATRIX_SIZE[device]
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    out, times = torch.empty_like(a), []
    with tf32(False):
        for _ in range(rounds + 2):
            start = time.perf_counter()
            torch.mm(a, b, out=out)
            if device == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter() - start)
    return 2 * size**3 / statistics.median(times[2:])


def describe(device: str) -> dict[str, Any]:
    """Device, versions, commit and date."""
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else _processor(),
        "threads": torch.get_num_threads(),
        "openmp": describe_spin(),
        "platform": f"{platform.system()} {platform.machine()}",
        "torch": torch.__version__,
        "vflow": vflow.__version__,
        "commit": _commit(),
        "date": time.strftime("%Y-%m-%d"),
        "native_cpu": native.cpu_missing() or native.cpu_target(),
        "backends": backend.describe(),
    }


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.is_file():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _commit() -> str | None:
    """The commit of this tree, with a + if it has been changed since; None outside of git."""
    folder = Path(__file__).parent
    try:
        commit, changes = (
            subprocess.run(
                ["git", *words.split()], cwd=folder, capture_output=True, text=True, check=True
            ).stdout.strip()
            for words in ("rev-parse --short HEAD", "status --porcelain --untracked-files=no")
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + ("+" if changes else "")
