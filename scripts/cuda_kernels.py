"""Compile csrc/cuda for GPUs that need not be here, and read what each kernel uses."""

from __future__ import annotations

import hashlib
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


def _key(command: list[str]) -> str:
    """A digest of all that machine code depends on."""
    compiler = subprocess.run(["nvcc", "--version"], capture_output=True, check=True).stdout
    sources = (path.read_bytes() for path in sorted(SOURCES.parent.rglob("*")) if path.is_file())
    parts = b"".join((compiler, " ".join(command).encode(), *sources))
    return hashlib.sha256(parts).hexdigest()[:16]


def compile_cuda(
    architecture: int, only: Sequence[str] = ("",), kept: Path | None = None
) -> Iterator[Usage]:
    """Every kernel of the sources whose name begins with one of `only`, two compiled at a time.

    Args:
        architecture: A key of NAMES.
        only: How the files' names begin.
        kept: A folder whose machine code of the same sources, flags and compiler is used again.
    """
    sources = [path for path in sorted(SOURCES.glob("*.cu")) if path.stem.startswith(tuple(only))]
    with tempfile.TemporaryDirectory() as temporary, ThreadPoolExecutor(2) as pool:
        command = ["nvcc", *FLAGS, f"-arch={NAMES[architecture]}", "-cubin"]
        folder = Path(temporary) if kept is None else kept / _key(command)
        for old in kept.iterdir() if kept and kept.is_dir() else ():
            if old != folder:
                shutil.rmtree(old)
        folder.mkdir(parents=True, exist_ok=True)

        def compile_one(source: Path) -> list[Usage]:
            cubin = folder / f"{source.stem}.cubin"
            if not cubin.is_file():
                new = Path(temporary, f"{source.stem}.new")
                subprocess.run([*command, source, "-o", new], check=True)
                shutil.move(new, cubin)
            return usages(cubin, architecture, f"cuda {source.stem}")

        for found in pool.map(compile_one, sources):
            yield from found
