"""What a kernel uses, read from its machine code: shared by the reports on Triton's and CUDA's."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import triton

ARCHITECTURES = (80, 90, 100)
HEAD = (
    f"{'sm':>4} {'launch':44} {'kernel':60} {'w':>2} {'regs':>4} {'st':>6} {'ld':>6} "
    f"{'shared':>7} {'instr':>6} | loads of 16, 8, 4, 2 bytes | stores"
)


@dataclass(frozen=True)
class Usage:
    """What one kernel of one launch uses on one architecture."""

    architecture: int
    case: str
    kernel: str
    warps: int | None  # of a program; a CUDA kernel's are chosen at its launch
    registers: int
    spill_stores: int  # bytes
    spill_loads: int  # bytes
    shared: int | None  # bytes, likewise
    instructions: int
    loads: dict[int, int]  # bytes -> instructions
    stores: dict[int, int]

    @property
    def row(self) -> str:
        """A line of the table under HEAD."""

        def counts(widths: dict[int, int]) -> str:
            return " ".join(f"{widths.get(width, 0):4}" for width in (16, 8, 4, 2))

        warps, shared = ("" if n is None else n for n in (self.warps, self.shared))
        return (
            f"{self.architecture:4} {self.case:44} {self.kernel:60} {warps:2} "
            f"{self.registers:4} {self.spill_stores:6} {self.spill_loads:6} {shared:7} "
            f"{self.instructions:6} "
            f"| {counts(self.loads)} | {counts(self.stores)}"
        )


def usages(
    cubin: Path,
    architecture: int,
    case: str,
    warps: int | None = None,
    shared: int | None = None,
) -> list[Usage]:
    """Read every kernel of a cubin.

    No kernel here has an array in local memory: whatever goes there is a spill.
    """
    resources = tool("cuobjdump", "--dump-resource-usage", str(cubin))
    registers = dict(re.findall(r"Function (\S+):\s+REG:(\d+)", resources))
    found = []
    codes = tool("cuobjdump", "--dump-sass", str(cubin)).split("Function : ")[1:]
    names = [code.split(maxsplit=1)[0] for code in codes]
    for name, kernel, code in zip(names, readable(names), codes, strict=True):
        loads, asynchronous = widths(code, "LDG"), widths(code, "LDGSTS")
        found.append(
            Usage(
                architecture=architecture,
                case=case,
                kernel=kernel,
                warps=warps,
                registers=int(registers[name]),
                spill_stores=total(widths(code, "STL")),
                spill_loads=total(widths(code, "LDL")),
                shared=shared,
                instructions=len(re.findall(r"^\s+/\*[0-9a-f]{4,}\*/", code, re.MULTILINE)),
                loads={w: loads.get(w, 0) + asynchronous.get(w, 0) for w in (16, 8, 4, 2, 1)},
                stores=widths(code, "STG"),
            )
        )
    return found


def tool(name: str, *arguments: str) -> str:
    """Run one of the tools that come with Triton."""
    path = getattr(triton.knobs.nvidia, name).path
    return subprocess.run([path, *arguments], capture_output=True, text=True, check=True).stdout


def readable(names: list[str]) -> list[str]:
    """The names and template arguments of C++ kernels; other names as they are."""
    if not any(name.startswith("_Z") for name in names):
        return names
    full = subprocess.run(["c++filt", *names], capture_output=True, text=True, check=True).stdout
    return [re.sub(r"\(.*", "", n).replace("void vflow::cuda::", "") for n in full.splitlines()]


def widths(sass: str, instruction: str) -> dict[int, int]:
    """Count memory accesses by their width in bytes."""
    counts: dict[int, int] = {}
    # A pattern that begins with letters is searched for much faster than one that does not.
    for modifiers in re.findall(rf" {instruction}((?:\.\w+)*)\s", sass):
        bits = re.search(r"\.(128|64)\b", modifiers)
        narrow = re.search(r"\.[US](8|16)\b", modifiers)
        width = int((bits or narrow)[1]) // 8 if bits or narrow else 4
        counts[width] = counts.get(width, 0) + 1
    return counts


def total(counts: dict[int, int]) -> int:
    """Bytes of all accesses."""
    return sum(width * count for width, count in counts.items())
