"""Command lines from dataclasses: tyro's parsing, with its errors in one line like all others."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Sequence
from typing import TypeVar

import tyro

T = TypeVar("T")


def parse(config_class: type[T], prog: str, args: Sequence[str] | None = None) -> T:
    """Make a config of command-line arguments.

    Args:
        config_class: A dataclass whose fields become flags.
        prog: The command, as its help and errors call it.
        args: The arguments; by default those of this process.

    Raises:
        ValueError: If they are not what the config needs; in one line, which flag and why.
        SystemExit: After --help.
    """
    stderr = io.StringIO()
    try:
        with contextlib.redirect_stderr(stderr):
            return tyro.cli(config_class, prog=prog, args=args)
    except SystemExit as stop:
        if stop.code in (None, 0):
            raise
    raise ValueError(f"{_reason(stderr.getvalue())} ({prog} --help lists the flags)")


def _reason(box: str) -> str:
    """What a framed message of tyro's says: its first section, unframed."""
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line).strip("│╭╮╰╯ ") for line in box.splitlines()[1:]]
    section: list[str] = []
    for line in lines:
        if line and not line.strip("─"):
            break
        section.append(line.strip())
    text = " ".join(filter(None, section))
    return re.sub(r"^Error parsing \w+: ", "", text).removesuffix(".")
