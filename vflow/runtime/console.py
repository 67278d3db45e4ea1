"""What every command shares: errors of the user's making come out as one line, not a traceback."""

from __future__ import annotations

import functools
import os
import sys
import time
from collections.abc import Callable
from typing import ParamSpec

from vflow.runtime.extras import MissingExtra
from vflow.runtime.streams import as_unix_tools_do

P = ParamSpec("P")

EXIT_ERROR = 1
EXIT_INTERRUPTED = 130
LINGER_SECONDS = 60.0
"""How long a process gives the one that speaks for it; torchrun ends all when that one exits."""


class RunStopped(RuntimeError):
    """A run cannot go on, for a reason its user can act on (a diverged loss, a full disk)."""


def one_line_errors(command: Callable[P, None]) -> Callable[P, None]:
    """Turn the errors of a command's user into one line on stderr and exit code 1.

    Those are ValueError, OSError, MissingExtra and RunStopped, which the library raises for what a
    user can mend. Anything else is a defect of ours and keeps its traceback, as everything does
    when VFLOW_TRACEBACK=1.

    Of the processes that torchrun starts on a machine the first speaks for all. Another one's error
    is its own if the first has not ended them all after a while, and is told then.
    """

    @functools.wraps(command)
    @as_unix_tools_do
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except KeyboardInterrupt as interruption:
            if _is_first():
                print(f"vflow: {str(interruption) or 'interrupted'}", file=sys.stderr)
            raise SystemExit(EXIT_INTERRUPTED) from None
        except BrokenPipeError:  # of our output, for nothing else here writes to a pipe
            raise
        except (ValueError, OSError, MissingExtra, RunStopped) as error:
            if os.environ.get("VFLOW_TRACEBACK") == "1":
                raise
            if not _is_first() and error not in _told_for_all:
                linger()
            print(f"vflow: error: {' '.join(str(error).split())}", file=sys.stderr)
            raise SystemExit(EXIT_ERROR) from None

    return wrapped


def speak_for_all(error: Exception) -> None:
    """Have an error told at once, whichever process it is in, for the others are silent."""
    _told_for_all.append(error)


def linger() -> None:
    """Wait to be ended by torchrun, whose first failed process has to have the time to speak."""
    time.sleep(LINGER_SECONDS)


_told_for_all: list[Exception] = []


def _is_first() -> bool:
    return os.environ.get("LOCAL_RANK", "0") == "0"
