"""Standard output and error as other Unix tools have them: in ASCII too, and for a while."""

from __future__ import annotations

import codecs
import contextlib
import functools
import os
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any, ParamSpec

P = ParamSpec("P")

EXIT_CLOSED_PIPE = 128 + int(signal.SIGPIPE)
"""What a shell reports of a program whose reader went away."""

_ASCII = str.maketrans(
    {"±": "+-", "·": ".", "…": "..."}
    | dict.fromkeys("\u00d7\u2715", "x")
    | dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2212─━", "-")
    | dict.fromkeys("\u2018\u2019", "'")
    | dict.fromkeys("\u201c\u201d", '"')
    | dict.fromkeys("│┃", "|")
    | dict.fromkeys("╭╮╰╯┌┐└┘├┤┬┴┼", "+")
)


def _plainly(error: UnicodeError) -> tuple[str, int]:
    """Write what an encoding lacks in ASCII: ± as +-, a letter or a lost byte by its number."""
    assert isinstance(error, UnicodeEncodeError)
    text = error.object[error.start : error.end]
    return text.translate(_ASCII).encode("ascii", "backslashreplace").decode(), error.end


codecs.register_error("vflow.plainly", _plainly)


def as_unix_tools_do(command: Callable[P, None]) -> Callable[P, None]:
    """Have a command print whatever the encoding, and end quietly when its reader has.

    Whoever reads its output may leave (`| head -1`): it then exits with 141, as if by SIGPIPE.
    """

    @functools.wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> None:
        with _printable(sys.stdout), _printable(sys.stderr):
            try:
                try:
                    command(*args, **kwargs)
                finally:
                    _flush()
            except BrokenPipeError:
                _discard_output()
                raise SystemExit(EXIT_CLOSED_PIPE) from None

    return wrapped


@contextlib.contextmanager
def _printable(stream: Any) -> Iterator[None]:
    """Characters that a stream's encoding lacks are written plainly within."""
    if not hasattr(stream, "reconfigure"):
        yield
        return
    before = stream.errors
    stream.reconfigure(errors="vflow.plainly")
    try:
        yield
    finally:
        with contextlib.suppress(OSError, ValueError):
            stream.reconfigure(errors=before)


def _flush() -> None:
    """Write out what was printed: at the interpreter's end it could only be complained about."""
    if sys.stdout is None:  # closed by whoever started the command
        return
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        _discard_output()
        print(f"vflow: error: standard output: {error.strerror}", file=sys.stderr)
        raise SystemExit(1) from None


def _discard_output() -> None:
    """Send what cannot be written and is still in the buffers nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, ValueError):
            try:
                stream.flush()
            except OSError:
                os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
