"""Check what is in a wheel: its tag, files, libraries and metadata.

    python scripts/wheel/check.py dist/vflow-*.whl

Needs pyelftools, which comes with auditwheel.
"""

from __future__ import annotations

import email.parser
import io
import re
import sys
import zipfile
from pathlib import Path

from elftools.elf.elffile import ELFFile

LIBRARY = "vflow/_lib/libvflow_cpu.so"
NEEDED = ("vflow/py.typed", "vflow/_lib/build.json", "vflow/models/zoo/cifar10-mini/config.json")
TAGGED = re.compile(r"vflow-[^-]+-py3-none(?:[-.]manylinux_\d+_\d+_(x86_64|aarch64))+\.whl")
PLACES = re.compile(r"vflow/|vflow\.libs/lib|vflow-[^/]+\.dist-info/")
SUFFIXES = {".py", ".typed", ".json", ".jsonl", ".md", ".png", ".safetensors"}
MACHINES = {"EM_X86_64": "x86_64", "EM_AARCH64": "aarch64"}
SYSTEM = re.compile(r"(libc|libm|libpthread|libdl|libstdc\+\+|libgcc_s|ld-linux[\w-]*)\.so\.\d+")
"""What every Linux of the wheel's tag has."""
CLASSIFIERS = (
    *(f"Programming Language :: Python :: 3.{minor}" for minor in range(10, 14)),
    *("Operating System :: POSIX :: Linux", "Intended Audience :: Science/Research"),
    "Typing :: Typed",
)


def problems(path: Path) -> list[str]:
    """What is wrong with a wheel, a line on each."""
    found = []
    tag = TAGGED.fullmatch(path.name)
    if tag is None:
        found.append(f"{path.name} must be tagged py3-none-manylinux_2_NN_MACHINE")
    with zipfile.ZipFile(path) as file:
        names = set(file.namelist())
        found += [f"{name} is missing" for name in (LIBRARY, *NEEDED) if name not in names]
        for name in sorted(name for name in names if not name.endswith("/")):
            if not _belongs(name):
                found.append(f"{name} does not belong there")
            elif ".so" in Path(name).suffixes:
                found += _problems_of_library(name, file.read(name), names, tag and tag[1])
        (about,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        metadata = email.parser.BytesParser().parsebytes(file.read(about))
    classifiers = metadata.get_all("Classifier", [])
    found += [f"there is no classifier {text}" for text in CLASSIFIERS if text not in classifiers]
    return found


def _belongs(name: str) -> bool:
    if not PLACES.match(name) or any(part.startswith("test") for part in Path(name).parts):
        return False
    if ".dist-info/" in name or name.startswith("vflow.libs/") or name == LIBRARY:
        return True
    return Path(name).suffix in SUFFIXES and "__pycache__" not in name


def _problems_of_library(
    name: str, content: bytes, names: set[str], machine: str | None
) -> list[str]:
    found = []
    elf = ELFFile(io.BytesIO(content))
    if MACHINES.get(elf["e_machine"]) != machine:
        found.append(f"{name} must be of {machine}, and is of {elf['e_machine']}")
    beside = {Path(other).name for other in names}
    for entry in elf.get_section_by_name(".dynamic").iter_tags("DT_NEEDED"):
        if not SYSTEM.fullmatch(entry.needed) and entry.needed not in beside:
            found.append(f"{name} needs {entry.needed}, which is neither in it nor everywhere")
    return found


def main() -> None:
    """Check the wheels named, and exit with code 1 if anything is wrong."""
    wrong = [line for name in sys.argv[1:] for line in problems(Path(name))]
    for line in wrong:
        print(f"vflow: error: {line}", file=sys.stderr)
    if wrong or not sys.argv[1:]:
        sys.exit(1)
    for name in sys.argv[1:]:
        size = Path(name).stat().st_size / 1e6
        print(f"{name}: {size:.1f} MB, nothing in it that should not be")


if __name__ == "__main__":
    main()
