"""Build: setuptools drives CMake and Ninja, which make the native libraries, without torch."""

from __future__ import annotations

import itertools
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()
LIBRARIES = Path("vflow", "_lib")


class CMakeBuild(build_ext):
    """Runs CMake once for all native libraries, which are loaded with ctypes."""

    def run(self) -> None:
        """Build and install into vflow/_lib of the tree (editable) or of the build folder."""
        root = ROOT if self.inplace else Path(self.build_lib).resolve()
        build = Path(self.build_temp).resolve()
        build.mkdir(parents=True, exist_ok=True)
        # An isolated build's cmake and ninja are gone by the next one, and CMake remembers them.
        shutil.rmtree(build / "cmake", ignore_errors=True)
        self._run(
            "configure the native libraries (needs a C++17 compiler: g++, clang++ or CXX)",
            ["-G", "Ninja", "-S", str(ROOT), "-B", str(build / "cmake")],
            ["-DCMAKE_BUILD_TYPE=Release", f"-DCMAKE_INSTALL_PREFIX={root / LIBRARIES}"],
            shlex.split(os.environ.get("VFLOW_CMAKE_ARGS", "")),
        )
        self._install(build / "cmake", "cpu")
        # One of an earlier build, of other sources, must not stay where this one makes none.
        (root / LIBRARIES / "libvflow_cuda.so").unlink(missing_ok=True)
        cache = (build / "cmake" / "CMakeCache.txt").read_text()
        if "VFLOW_CUDA_FOUND:INTERNAL=ON" not in cache:
            return
        try:
            self._install(build / "cmake", "cuda")
        except SystemExit as error:
            if "VFLOW_CUDA:STRING=AUTO" not in cache:
                raise
            print(f"{error}; going on without the CUDA library", file=sys.stderr)

    def _install(self, build: Path, name: str) -> None:
        self._run(
            f"compile the {name} library",
            ["--build", str(build), "--target", f"vflow_{name}"],
        )
        self._run(f"install the {name} library", ["--install", str(build), "--component", name])

    def get_outputs(self) -> list[str]:
        """List what a wheel takes from the build folder."""
        return [str(path) for path in (Path(self.build_lib) / LIBRARIES).glob("*.so")]

    def get_output_mapping(self) -> dict[str, str]:
        """Nothing is copied back into the tree: an editable build installs there at once."""
        return {}

    def _run(self, purpose: str, *arguments: list[str]) -> None:
        try:
            subprocess.run(["cmake", *itertools.chain(*arguments)], check=True)
        except FileNotFoundError:
            raise SystemExit(
                f"vflow: error: cannot {purpose}: cmake is not on PATH (pip install cmake ninja)"
            ) from None
        except subprocess.CalledProcessError:
            raise SystemExit(
                f"vflow: error: cannot {purpose}; CMake's own words are above"
            ) from None


class AnyPythonWheel(bdist_wheel):
    """The libraries know nothing of Python: one wheel serves every version, for one platform."""

    def get_tag(self) -> tuple[str, str, str]:
        """Tag the wheel py3-none-PLATFORM."""
        return "py3", "none", super().get_tag()[2]


class BinaryExtension(Extension):
    """A name for setuptools, so that it builds a platform wheel; CMake knows the sources."""

    def __init__(self) -> None:
        super().__init__("vflow._lib.native", sources=[])


setup(
    ext_modules=[BinaryExtension()],
    cmdclass={"build_ext": CMakeBuild, "bdist_wheel": AnyPythonWheel},
)
