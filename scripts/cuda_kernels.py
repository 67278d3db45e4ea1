"""Compile csrc/cuda for GPUs that need not be here, and read what each kernel uses."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from scripts.machine_code import Usage, usages

SOURCES = Path(__file__).parents[1] / "csrc" / "cuda"
FLAGS = ("-std=c++17", "-O3", "-ftz=true")  # as in CMakeLists.txt
NAMES = {80: "sm_80", 90: "sm_90a", 100: "sm_100"}


def why_not() -> str | None:
    """Say what it takes to compile them, and is not here."""
    missing = [name for name in ("nvcc", "c++filt") if shutil.which(name) is None]
    return f"needs {' and '.join(missing)}" if missing else None


def compile_cuda(architecture: int, only: Sequence[str] = ("",)) -> Iterator[Usage]:
    """Every kernel of the sources whose name begins with one of `only`, two compiled at a time."""
    sources = [path for path in sorted(SOURCES.glob("*.cu")) if path.stem.startswith(tuple(only))]
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(2) as pool:

        def compile_one(source: Path) -> list[Usage]:
            cubin = Path(folder, f"{source.stem}.cubin")
            command = [
                "nvcc",
                *FLAGS,
                f"-arch={NAMES[architecture]}",
                "-cubin",
                source,
                "-o",
                cubin,
            ]
            subprocess.run(command, check=True)
            return usages(cubin, architecture, f"cuda {source.stem}")

        for found in pool.map(compile_one, sources):
            yield from found
