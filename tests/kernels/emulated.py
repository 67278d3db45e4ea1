"""The CUDA library compiled for the CPU: csrc/cuda against the runtime of `emulator/`."""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

from filelock import FileLock

from vflow.ops import native

ROOT = Path(__file__).parents[2]
EMULATOR = Path(__file__).parent / "emulator"
# More flags in the environment, of sanitizers for instance, make another library.
FLAGS = [
    *["-std=c++17", "-O1", "-g1", "-fPIC", "-ffp-contract=fast", "-fno-math-errno"],
    *["-Wall", "-Wextra", "-Werror", f"-I{EMULATOR}", "-x", "c++"],
    *os.environ.get("VFLOW_EMULATOR_FLAGS", "").split(),
]


def why_not() -> str | None:
    """Say what it takes to compile the emulated library, and is not here."""
    return None if shutil.which("c++") else "needs a C++ compiler"


@cache
def library() -> ctypes.CDLL:
    """The emulated library, compiled anew by whoever comes first after a source has changed."""
    sources = sorted((ROOT / "csrc" / "cuda").glob("*.cu"))
    read = [
        path
        for folder in (ROOT / "csrc", EMULATOR)
        for path in sorted(folder.rglob("*"))
        if path.suffix in (".cu", ".h", ".cpp")
    ]
    key = hashlib.sha256("\0".join(FLAGS).encode() + b"".join(p.read_bytes() for p in read))
    folder = ROOT / "build" / "emulator" / key.hexdigest()[:16]
    path = folder / "libvflow_cuda.so"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.parent / "lock"):
        if not path.is_file():
            for old in folder.parent.iterdir():
                shutil.rmtree(old, ignore_errors=True)  # but not the lock, which is a file
            folder.mkdir()
            whole = folder / "being-linked.so"
            _compile([*sources, EMULATOR / "emulator.cpp"], whole)
            whole.replace(path)
    return native.load_cuda(path)


def _compile(sources: list[Path], path: Path) -> None:
    objects = [path.with_name(f"{source.name}.o") for source in sources]
    with ThreadPoolExecutor(2) as pool:
        list(
            pool.map(
                _run,
                [["c++", *FLAGS, "-c", s, "-o", o] for s, o in zip(sources, objects, strict=True)],
            )
        )
    sanitizers = [flag for flag in FLAGS if flag.startswith("-fsanitize")]
    _run(["c++", "-shared", *sanitizers, *objects, "-o", path])


def _run(command: list[str | Path]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
