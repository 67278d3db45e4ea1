"""Command lines from dataclasses: tyro's parsing, with its errors in one line like all others."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from typing import TypeVar

from vflow.runtime.extras import require

T = TypeVar("T")

LEAST_COLUMNS = 60


def parse(config_class: type[T], prog: str, args: Sequence[str] | None = None) -> T:
    """Make a config of command-line arguments.

    Args:
        config_class: A dataclass whose fields become flags.
        prog: The command, as its help and errors call it.
        args: The arguments; by default those of this process.

    Raises:
        ValueError: If they are not what the config needs; in one line, which flag and why.
        MissingExtra: If tyro, which reads them, is not installed.
        SystemExit: After --help.
    """
    args = sys.argv[1:] if args is None else args
    if not args and not dataclasses.fields(config_class):  # type: ignore[arg-type]
        return config_class()  # as `vflow info`, which tells what is not installed
    require("tyro", prog)
    import tyro

    stderr = io.StringIO()
    try:
        with contextlib.redirect_stderr(stderr), _room():
            return tyro.cli(config_class, prog=prog, args=args)
    except SystemExit as stop:
        if stop.code in (None, 0):
            raise
    raise ValueError(f"{_reason(stderr.getvalue())} ({prog} --help lists the flags)")


@contextlib.contextmanager
def _room() -> Iterator[None]:
    """Let tyro take a narrow terminal for a wider one, whose lines the terminal then wraps.

    In columns of few letters its help would be endless, and in one column it never ends.
    """
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = str(max(LEAST_COLUMNS, shutil.get_terminal_size().columns))
    try:
        yield
    finally:
        os.environ.pop("COLUMNS")
        if before is not None:
            os.environ["COLUMNS"] = before


def _reason(box: str) -> str:
    """What a framed message of tyro's says: its first section, and the flags it suggests."""
    first, *others = _sections(re.sub(r"\x1b\[[0-9;]*m", "", box)) or [[]]
    # An argument stands four spaces in, what is said of it eight.
    named = [line.strip() for line in first if re.match(r" {4}\S", line)]
    head = [line for line in first if not line.startswith("    ")]
    text = " ".join([*head, ", ".join(named)] if named else map(str.strip, first))
    for pattern, words in _REWORDED:
        text = re.sub(pattern, words, text)
    hints = []
    for section in others:
        flags = [re.search(r"--[\w.-]+", line) for line in section if re.match(r" {4}\S", line)]
        close = " or ".join(flag[0] for flag in flags if flag)
        if close and section[0].startswith("Perhaps you meant"):
            hints.append(f"perhaps you meant {close}")
        elif close and (similar := re.match(r"Arguments similar to (\S+):", section[0])):
            hints.append(f"for {similar[1]} perhaps you meant {close}")
    return text.strip().removesuffix(".") + "".join(f"; {hint}" for hint in sorted(hints))


_REWORDED = (
    (r"^Error parsing (?!-)\w+: ", ""),
    (r" Got errors: .*$", ""),
    (
        r"^Error parsing (\S+): no type matching (.*) could be instantiated from \[(.*)\]",
        r"\1 must be \2, got \3",
    ),
    (r"^Error parsing (\S+): invalid literal for int\(\) with base 10: ", r"\1 must be INT, got "),
    (r"^Error parsing (\S+): could not convert string to float: ", r"\1 must be FLOAT, got "),
    (r"^Error parsing (--\S+): ", r"\1: "),
    (r"^Missing from [\w .-]+: ", "missing "),
)


def _sections(box: str) -> list[list[str]]:
    """The lines between the rules of a frame, which is one of lines or, in ASCII, of spaces."""
    sections: list[list[str]] = [[]]
    for line in box.splitlines()[1:]:
        text = line[2:].rstrip("│ ")
        if text and not text.strip("─╰╯- "):
            sections.append([])
        elif text.strip():
            sections[-1].append(text)
    return [section for section in sections if section]
