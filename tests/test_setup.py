"""The build: what it makes, keeps, leaves out and says. A stub stands in for CMake."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

SETUP = Path(__file__).parents[1] / "setup.py"
CMAKE = """#!{python}
import json, os, pathlib, sys
words = sys.argv[1:]
with open("calls.jsonl", "a") as file:
    file.write(json.dumps(words) + "\\n")
name = words[-1].removeprefix("vflow_")
if "-S" in words:
    found, option = os.environ.get("FOUND", "ON"), os.environ.get("OPTION", "AUTO")
    cache = f"VFLOW_CUDA_FOUND:INTERNAL={{found}}\\nVFLOW_CUDA:STRING={{option}}\\n"
    pathlib.Path(words[words.index("-B") + 1], "CMakeCache.txt").write_text(cache)
elif words[0] == "--build" and name in os.environ.get("FAILING", "").split():
    sys.exit(1)
elif words[0] == "--install":
    library = pathlib.Path(words[1], "lib", f"libvflow_{{name}}.so")
    library.parent.mkdir(exist_ok=True)
    library.write_text("new")
"""


class Tree:
    """A tree with our setup.py, a library of an earlier build, and a PATH of stubs."""

    def __init__(self, path: Path) -> None:
        self.path, self.bin = path, path / "bin"
        shutil.copy(SETUP, path)
        project = '[project]\nname = "vflow"\nversion = "0"\n'
        (path / "pyproject.toml").write_text(f'{project}[tool.setuptools]\npackages = ["vflow"]\n')
        for folder in ("csrc", "vflow/_lib", "bin"):
            (path / folder).mkdir(parents=True)
        for name in ("CMakeLists.txt", "csrc/a.cpp", "vflow/__init__.py"):
            (path / name).touch()
        for name in ("cpu", "cuda"):
            self.library(name).write_text("old")
        for name, text in {"cmake": CMAKE.format(python=sys.executable)}.items():
            (self.bin / name).write_text(text)
        for name in ("ninja", "g++"):
            (self.bin / name).write_text("#!/bin/sh\n")
        for stub in self.bin.iterdir():
            stub.chmod(0o755)

    def library(self, name: str) -> Path:
        return self.path / "vflow" / "_lib" / f"libvflow_{name}.so"

    def setup(self, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        ours = ("CXX", "CUDACXX", "CMAKE_TOOLCHAIN_FILE", "VFLOW_CMAKE_ARGS", "VFLOW_NATIVE")
        inherited = {name: text for name, text in os.environ.items() if name not in ours}
        return subprocess.run(
            [sys.executable, "setup.py", "-q", *(words or ("build_ext", "--inplace"))],
            cwd=self.path,
            env={**inherited, "PATH": str(self.bin), **environment},
            capture_output=True,
            text=True,
            check=False,
        )

    def missing(self) -> dict[str, str]:
        found: dict[str, str] = json.loads(self.library("cpu").with_name("build.json").read_text())[
            "missing"
        ]
        return found

    def cmake_trees(self) -> list[Path]:
        """The folders of CMake's calls to configure."""
        calls = map(json.loads, (self.path / "calls.jsonl").read_text().splitlines())
        return [Path(words[words.index("-B") + 1]) for words in calls if "-B" in words]


@pytest.fixture
def tree(tmp_path) -> Tree:
    pytest.importorskip("setuptools.command.bdist_wheel")
    return Tree(tmp_path)


@pytest.mark.parametrize(
    ("found", "option", "failing", "status", "why"),
    [
        ("ON", "AUTO", "", 0, None),
        ("ON", "AUTO", "cuda", 0, "nvcc could not compile it"),
        ("ON", "ON", "cuda", 1, None),
        ("OFF", "AUTO", "", 0, "no nvcc that works was found"),
        ("OFF", "OFF", "", 0, "VFLOW_CUDA was OFF"),
        ("ON", "AUTO", "cpu", 1, None),
    ],
)
def test_libraries_are_new_or_gone_and_it_is_told_why(tree, found, option, failing, status, why):
    done = tree.setup(FOUND=found, OPTION=option, FAILING=failing)
    assert done.returncode == status, done.stderr
    assert ("going on without the CUDA library" in done.stderr) == (
        failing == "cuda" and not status
    )
    if status:
        assert "CMake's own words are above" in done.stderr
        assert tree.library("cpu").read_text() == "old", "half of a failed build was installed"
        return
    assert tree.library("cpu").read_text() == "new"
    assert tree.library("cuda").exists() == (why is None)
    assert tree.missing() == ({} if why is None else {"cuda": why})


@pytest.mark.parametrize("gone", ["g++", "cmake", "ninja"])
def test_without_tools_it_goes_through_and_says_what_is_missing(tree, gone):
    (tree.bin / gone).unlink()
    done = tree.setup()
    assert done.returncode == 0, done.stderr
    name = "a C++ compiler (such as g++ or clang++)" if gone == "g++" else gone
    reason = f"{name} could not be found"
    assert f"vflow: warning: {reason}: without the native libraries" in done.stderr
    assert tree.missing() == {"cpu": reason, "cuda": reason}
    assert not tree.library("cpu").exists()
    assert not tree.library("cuda").exists()


@pytest.mark.parametrize(
    ("name", "text"), [("VFLOW_NATIVE", "on"), ("VFLOW_CMAKE_ARGS", "-DVFLOW_CUDA=OFF")]
)
def test_whoever_insists_is_refused_without_tools(tree, name, text):
    (tree.bin / "g++").unlink()
    done = tree.setup(**{name: text})
    assert done.returncode == 1
    assert f"vflow: error: {name} asks for the native libraries, but a C++ compiler" in done.stderr
    assert tree.library("cpu").exists()


def test_a_compiler_that_is_named_has_to_work(tree):
    """CMake says what is wrong with it: the stub, that it does not compile."""
    (tree.bin / "g++").unlink()
    done = tree.setup(CXX="/nowhere/g++", FAILING="cpu")
    assert done.returncode == 1
    assert "CMake's own words are above" in done.stderr


def test_native_off_builds_nothing(tree):
    assert tree.setup(VFLOW_NATIVE="OFF").returncode == 0
    assert tree.missing()["cpu"] == "VFLOW_NATIVE was OFF"
    assert not (tree.path / "calls.jsonl").exists()
    done = tree.setup(VFLOW_NATIVE="never")
    assert done.returncode == 1
    assert "VFLOW_NATIVE must be AUTO, ON or OFF, got NEVER" in done.stderr


def test_what_was_compiled_is_kept_while_it_holds(tree):
    """CMake's folder is the same while flags and compilers are, and Ninja sees what is newer."""

    def build(**environment: str) -> tuple[Path, bool]:
        """The folder, and whether something that was in it is there still."""
        assert tree.setup(**environment).returncode == 0
        folder = tree.cmake_trees()[-1]
        kept = (folder / "object.o").exists()
        (folder / "object.o").touch()
        return folder, kept

    first, _ = build()
    assert build() == (first, True)
    assert build(VFLOW_CMAKE_ARGS="-DVFLOW_CUDA=OFF")[0] != first
    assert build(CXXFLAGS="-O1")[0] != first
    assert build() == (first, True)
    source = tree.path / "csrc" / "a.cpp"
    source.write_text("newer")
    assert build() == (first, True)
    source.write_text("of an older commit, unpacked over this one")
    os.utime(source, (1e9, 1e9))
    assert build() == (first, False)
    assert build() == (first, True)
    (tree.bin / "g++").write_text("#!/bin/sh\necho another version\n")
    assert build()[0] != first


def test_a_library_that_is_in_use_is_replaced_and_not_overwritten(tree):
    with tree.library("cpu").open() as loaded:
        assert tree.setup().returncode == 0
        assert loaded.read() == "old"
    before = tree.library("cpu").stat()
    assert tree.setup().returncode == 0
    assert tree.library("cpu").stat().st_ino == before.st_ino, "replaced by what it was"


@pytest.mark.parametrize("built", [True, False])
def test_a_wheel_is_tagged_by_what_is_in_it(tree, built):
    if not built:
        (tree.bin / "g++").unlink()
    done = tree.setup("bdist_wheel")
    assert done.returncode == 0, done.stderr
    (wheel,) = (tree.path / "dist").iterdir()
    assert wheel.name.endswith("-py3-none-any.whl") != built
    with zipfile.ZipFile(wheel) as file:
        names = file.namelist()
        about = file.read("vflow-0.dist-info/WHEEL").decode()
        if built:
            assert file.read("vflow/_lib/libvflow_cpu.so") == b"new"
    assert ("vflow/_lib/libvflow_cpu.so" in names) == built
    assert "vflow/_lib/build.json" in names
    assert f"Root-Is-Purelib: {'false' if built else 'true'}" in about
