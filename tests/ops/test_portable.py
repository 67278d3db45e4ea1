"""The coder and the exact kernels, built for other processors: the recorded bits on each."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
SOURCES = TESTS.parent.parent / "csrc" / "cpu"
RECORDED = (TESTS / "exact_cases.txt").read_text()
FLAGS = "-std=c++17 -O1 -ffp-contract=off -fno-math-errno -fno-trapping-math -w -static"
# A compiler, and what runs its programs.
PROCESSORS = {
    "this one": ("c++", []),
    "aarch64": ("aarch64-linux-gnu-g++", ["qemu-aarch64-static"]),
}


@pytest.mark.parametrize("processor", PROCESSORS)
def test_the_recorded_bits(processor, tmp_path):
    compiler, emulator = PROCESSORS[processor]
    missing = [program for program in (compiler, *emulator) if shutil.which(program) is None]
    if missing:
        pytest.skip(f"needs {' and '.join(missing)}")
    program = tmp_path / "cases"
    sources = [TESTS / "exact_cases.cpp", SOURCES / "library.cpp", SOURCES / "coder.cpp"]
    sources += sorted([*SOURCES.glob("exact_*.cpp"), *SOURCES.glob("conv3x3*.cpp")])
    command = [compiler, *FLAGS.split(), *map(str, sources), "-o", str(program)]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    found = subprocess.run([*emulator, program], capture_output=True, text=True, check=True)
    assert found.stdout == RECORDED
