"""The build: what becomes of the CUDA library of an earlier one. A stub stands in for CMake."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SETUP = Path(__file__).parents[1] / "setup.py"
STUB = """#!{python}
import pathlib, sys
words = sys.argv[1:]
if "-S" in words:
    build = pathlib.Path(words[words.index("-B") + 1])
    build.mkdir(parents=True)
    cache = "VFLOW_CUDA_FOUND:INTERNAL={found}\\nVFLOW_CUDA:STRING={option}\\n"
    (build / "CMakeCache.txt").write_text(cache)
elif "vflow_cuda" in words and {fails}:
    sys.exit(1)
elif words[0] == "--install" and words[-1] == "cuda":
    pathlib.Path("vflow/_lib/libvflow_cuda.so").write_text("new")
"""


@pytest.mark.parametrize(
    ("found", "option", "fails", "status", "left"),
    [
        ("ON", "AUTO", False, 0, "new"),
        ("ON", "AUTO", True, 0, None),
        ("ON", "ON", True, 1, None),
        ("OFF", "AUTO", False, 0, None),
        ("OFF", "OFF", False, 0, None),
    ],
)
def test_no_old_cuda_library_stays(tmp_path, found, option, fails, status, left):
    pytest.importorskip("setuptools.command.bdist_wheel")
    shutil.copy(SETUP, tmp_path)
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "vflow"\nversion = "0"\n')
    library = tmp_path / "vflow" / "_lib" / "libvflow_cuda.so"
    cmake = tmp_path / "bin" / "cmake"
    for path in (library, cmake):
        path.parent.mkdir(parents=True)
    library.write_text("old")
    cmake.write_text(STUB.format(python=sys.executable, found=found, option=option, fails=fails))
    cmake.chmod(0o755)
    done = subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", "--inplace"],
        cwd=tmp_path,
        env={**os.environ, "PATH": f"{cmake.parent}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == status, done.stderr
    assert ("going on without the CUDA library" in done.stderr) == (fails and status == 0)
    assert (library.read_text() if library.exists() else None) == left
