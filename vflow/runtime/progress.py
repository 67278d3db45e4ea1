"""How far a command has come."""

from __future__ import annotations

import sys
from typing import Any

from tqdm import tqdm

LOG_SECONDS = 60


def progress_bar(total: int, unit: str, initial: int = 0, show: bool = True) -> tqdm[Any]:
    """A bar on a terminal; elsewhere, such as in a log, a line a minute."""
    every = 0.1 if sys.stderr.isatty() else LOG_SECONDS
    return tqdm(
        total=total,
        initial=initial,
        unit=f" {unit}",
        mininterval=every,
        delay=0 if sys.stderr.isatty() else LOG_SECONDS,
        disable=not show,
    )
