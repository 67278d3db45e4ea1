"""Build: setuptools drives CMake and Ninja, which make the native libraries, without torch.

CMake's tree is kept in build/, so that a build after the first compiles what has changed. Without
the tools to build, the package is installed without libraries and runs on plain PyTorch; what was
left out, and why, is in vflow/_lib/build.json for `vflow info` to tell.
"""

from __future__ import annotations

import fcntl
import filecmp
import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()
LIBRARIES = Path("vflow", "_lib")
REPORT = "build.json"
NAMES = ("cpu", "cuda")
NATIVE = os.environ.get("VFLOW_NATIVE", "").upper() or "AUTO"
ARGUMENTS = os.environ.get("VFLOW_CMAKE_ARGS", "")
# The names by which CMake looks for a C++ compiler.
COMPILERS = ("c++", "CC", "g++", "clang++", "icpx", "icx", "aCC", "bcc", "xlC")
# What else CMake, the compilers and the linker read from the environment.
VARIABLES = (
    *("CXX", "CXXFLAGS", "LDFLAGS", "CUDACXX", "CUDAFLAGS", "CUDAARCHS", "CUDAHOSTCXX"),
    *("NVCC_PREPEND_FLAGS", "NVCC_APPEND_FLAGS", "NVCC_CCBIN", "CPATH", "CPLUS_INCLUDE_PATH"),
    *("LIBRARY_PATH", "CMAKE_PREFIX_PATH", "CMAKE_TOOLCHAIN_FILE", "MACOSX_DEPLOYMENT_TARGET"),
    *("CMAKE_CXX_COMPILER_LAUNCHER", "CMAKE_CUDA_COMPILER_LAUNCHER"),
)


class CMakeBuild(build_ext):
    """Runs CMake once for all native libraries, which are loaded with ctypes."""

    def run(self) -> None:
        """Build into vflow/_lib of the tree (editable) or of the build folder."""
        if NATIVE not in ("AUTO", "ON", "OFF"):
            raise SystemExit(f"vflow: error: VFLOW_NATIVE must be AUTO, ON or OFF, got {NATIVE}")
        target = (ROOT if self.inplace else Path(self.build_lib).resolve()) / LIBRARIES
        reason = "VFLOW_NATIVE was OFF" if NATIVE == "OFF" else missing_tools()
        if reason is None:
            with locked(ROOT / "build" / "native.lock"):
                place(*self._build(), target)
            return
        if NATIVE == "ON" or (ARGUMENTS and NATIVE != "OFF"):
            name = "VFLOW_NATIVE" if NATIVE == "ON" else "VFLOW_CMAKE_ARGS"
            raise SystemExit(f"vflow: error: {name} asks for the native libraries, but {reason}")
        print(
            f"vflow: warning: {reason}: without the native libraries vflow runs on plain PyTorch, "
            "many times slower on a CPU",
            file=sys.stderr,
        )
        place({}, {name: reason for name in NAMES}, target)

    def _build(self) -> tuple[dict[str, Path], dict[str, str]]:
        """The libraries by their names, and of those that are missing, why."""
        # One machine's own build need not serve others: less to compile.
        options = [f"-DVFLOW_CUDA_FOR={'HERE' if self.inplace else 'ALL'}"]
        tree = build_tree(options)
        forget_if_outdated(tree)
        again = [] if has_cuda(tree) else ["-UCMAKE_CUDA_COMPILER"]  # there may be one by now
        cmake(
            "configure the native libraries (needs a C++17 compiler: g++, clang++ or CXX)",
            *("-G", "Ninja", "-S", str(ROOT), "-B", str(tree), "-DCMAKE_BUILD_TYPE=Release"),
            # An isolated build's Ninja is gone by the next one, and CMake remembers it.
            *(
                f"-DCMAKE_INSTALL_PREFIX={tree / 'lib'}",
                f"-DCMAKE_MAKE_PROGRAM={shutil.which('ninja')}",
            ),
            *(*again, *options, *shlex.split(ARGUMENTS)),
        )
        cache = (tree / "CMakeCache.txt").read_text()
        wanted, missing = ["cpu"], {}
        if has_cuda(tree):
            wanted.append("cuda")
            # Both at once, so that no core waits; what fails is told below, one library at a time.
            targets = [f"vflow_{name}" for name in wanted]
            subprocess.run(
                ["cmake", "--build", tree, "--target", *targets, "--", "-k", "0"], check=False
            )
        else:
            off = "VFLOW_CUDA:STRING=OFF" in cache
            missing["cuda"] = "VFLOW_CUDA was OFF" if off else "no nvcc that works was found"
        for name in wanted:
            try:
                cmake(
                    f"compile the {name} library", "--build", str(tree), "--target", f"vflow_{name}"
                )
            except SystemExit as error:
                if name == "cpu" or "VFLOW_CUDA:STRING=AUTO" not in cache:
                    raise
                print(f"{error}; going on without the CUDA library", file=sys.stderr)
                missing[name] = "nvcc could not compile it"
                continue
            cmake(f"install the {name} library", "--install", str(tree), "--component", name)
        built = {name: tree / "lib" / library(name) for name in wanted if name not in missing}
        return built, missing

    def get_outputs(self) -> list[str]:
        """List what a wheel takes from the build folder."""
        return [str(path) for path in (Path(self.build_lib) / LIBRARIES).glob("*")]

    def get_output_mapping(self) -> dict[str, str]:
        """Nothing is copied back into the tree: an editable build installs there at once."""
        return {}


def has_cuda(tree: Path) -> bool:
    """Whether CMake found nvcc when it last configured the folder."""
    cache = tree / "CMakeCache.txt"
    return cache.is_file() and "VFLOW_CUDA_FOUND:INTERNAL=ON" in cache.read_text()


def compiler() -> str | None:
    """The C++ compiler that CMake will take, if there is one. One that is named is there."""
    return os.environ.get("CXX") or next(filter(shutil.which, COMPILERS), None)


def missing_tools() -> str | None:
    """Say which of the tools to build with were not there, or None."""
    missing = [name for name in ("cmake", "ninja") if shutil.which(name) is None]
    if not compiler() and not os.environ.get("CMAKE_TOOLCHAIN_FILE"):
        missing.append("a C++ compiler (such as g++ or clang++)")
    return f"{' and '.join(missing)} could not be found" if missing else None


def build_tree(options: list[str]) -> Path:
    """CMake's folder for builds like this one, so that what it remembers holds."""
    compilers = [shlex.split(compiler() or ""), shlex.split(os.environ.get("CUDACXX", "nvcc"))]
    versions = [version(*command) for command in compilers if command]
    variables = {name: os.environ.get(name) for name in VARIABLES}
    key = json.dumps([str(ROOT), options, shlex.split(ARGUMENTS), variables, versions])
    return ROOT / "build" / f"native-{hashlib.sha256(key.encode()).hexdigest()[:12]}"


def version(*command: str) -> list[str | None]:
    """Where a compiler is, and what it says of its version."""
    path = shutil.which(command[0])
    if path is None:
        return [command[0], None]
    ran = subprocess.run([*command, "--version"], capture_output=True, text=True, check=False)
    return [os.path.realpath(path), ran.stdout]


def forget_if_outdated(tree: Path) -> None:
    """Remove a tree if a source has changed without becoming newer, which Ninja would not see."""
    sources = [ROOT / "CMakeLists.txt", *sorted(path for path in (ROOT / "csrc").rglob("*"))]
    digests = {
        str(path.relative_to(ROOT)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sources
        if path.is_file()
    }
    record = tree / "sources.json"
    if record.is_file():
        before, seen = json.loads(record.read_text()), record.stat().st_mtime_ns
        changed = (name for name, digest in digests.items() if before.get(name) != digest)
        if any((ROOT / name).stat().st_mtime_ns <= seen for name in changed):
            shutil.rmtree(tree)
    elif tree.exists():  # the work of somebody who was interrupted
        shutil.rmtree(tree)
    tree.mkdir(parents=True, exist_ok=True)
    record.write_text(json.dumps(digests))


def cmake(purpose: str, *arguments: str) -> None:
    """Run CMake.

    Raises:
        SystemExit: If it fails.
    """
    if subprocess.run(["cmake", *arguments], check=False).returncode:
        raise SystemExit(f"vflow: error: cannot {purpose}; CMake's own words are above")


def library(name: str) -> str:
    """The file name of a library."""
    return f"libvflow_{name}.so"


def place(built: dict[str, Path], missing: dict[str, str], target: Path) -> None:
    """Put the libraries that were built into a folder, in place of all those of earlier builds."""
    target.mkdir(parents=True, exist_ok=True)
    for name in NAMES:
        path = target / library(name)
        if name not in built:
            path.unlink(missing_ok=True)
        elif not path.is_file() or not filecmp.cmp(built[name], path, shallow=False):
            # Processes that have the old one loaded keep it.
            new = path.with_name(f".{path.name}.new")
            shutil.copy2(built[name], new)
            new.replace(path)
    (target / REPORT).write_text(json.dumps({"missing": missing}, indent=2) + "\n")


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep other builds of this tree waiting."""
    path.parent.mkdir(exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


class HonestWheel(bdist_wheel):
    """The libraries know nothing of Python: one wheel serves every version, for one platform.

    Without libraries it serves every platform.
    """

    def run(self) -> None:
        """Build first, to know what there is."""
        self.run_command("build")
        libraries = Path(self.get_finalized_command("build").build_lib, LIBRARIES)
        if not list(libraries.glob("*.so")):
            self.root_is_pure = True
            self.distribution.ext_modules = []  # or setuptools would install it for one platform
        super().run()

    def get_tag(self) -> tuple[str, str, str]:
        """Tag the wheel py3-none-PLATFORM, or py3-none-any."""
        return "py3", "none", super().get_tag()[2]


class BinaryExtension(Extension):
    """A name for setuptools, so that it builds a platform wheel; CMake knows the sources."""

    def __init__(self) -> None:
        super().__init__("vflow._lib.native", sources=[])


setup(
    ext_modules=[BinaryExtension()],
    cmdclass={"build_ext": CMakeBuild, "bdist_wheel": HonestWheel},
)
