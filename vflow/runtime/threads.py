"""How long OpenMP's threads spin while they wait for one another.

After its share of a parallel loop a thread of GNU's OpenMP runtime (libgomp) looks for some
milliseconds whether the others are done, before it sleeps. On a busy machine it so keeps a core
from the very thread that it waits for: several trainings at once make a fraction of what one makes
alone. A spin of some microseconds costs one training nothing, and several nothing either.

libgomp reads its environment when it is loaded, which `import torch` does: this module imports
nothing of torch, and `import vflow` calls `shorten_spin` first of all.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

VARIABLE = "GOMP_SPINCOUNT"
SPIN_COUNT = "2000"
"""Rounds of the loop in which a thread waits; libgomp's own choice is 300,000."""
WAIT_POLICY = "OMP_WAIT_POLICY"
"""OpenMP's own variable to the same end."""

_MAPS = Path("/proc/self/maps")
_set_by: str | None = None


def shorten_spin() -> None:
    """Ask for a short spin in the environment, which processes begun from here inherit.

    Whoever has set GOMP_SPINCOUNT or OMP_WAIT_POLICY keeps what they have set. Once torch is
    imported, it is too late for this process.
    """
    global _set_by
    if _set_by is not None:
        return
    for name in (VARIABLE, WAIT_POLICY):
        if os.environ.get(name):
            _set_by = f"{name}={os.environ[name]}, set in the environment"
            return
    os.environ[VARIABLE] = SPIN_COUNT
    _set_by = f"{VARIABLE}={SPIN_COUNT}, set by vflow"
    if "torch" in sys.modules:
        _set_by += (
            " too late for this process, torch having been imported before: "
            f"import vflow first, or set {VARIABLE}"
        )


def describe_spin() -> str:
    """Tell what holds: the OpenMP runtimes loaded, the setting, whose it is, and if in time."""
    setting = _set_by or f"libgomp's own spin, {VARIABLE} not being set"
    if not _MAPS.is_file():
        return setting
    runtimes = _runtimes(_MAPS.read_text(encoding="utf-8", errors="replace"))
    if not runtimes:
        return f"{setting}; no OpenMP runtime is loaded"
    if "libgomp" not in runtimes:
        setting += f", of no effect on {' and '.join(runtimes)}"
    return f"{', '.join(runtimes)}; {setting}"


def _runtimes(maps: str) -> list[str]:
    """The OpenMP runtimes among the files that a process has mapped."""
    return sorted(set(re.findall(r"/(libgomp|libiomp5|libomp)[-.][^/\n]*$", maps, re.MULTILINE)))
