"""What every command shares: errors of the user's making come out as one line, not a traceback."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from typing import ParamSpec

from vflow.streams import as_unix_tools_do

P = ParamSpec("P")

EXIT_ERROR = 1
EXIT_INTERRUPTED = 130


class RunStopped(RuntimeError):
    """A run cannot go on, for a reason its user can act on (a diverged loss, a full disk)."""


def one_line_errors(command: Callable[P, None]) -> Callable[P, None]:
    """Turn a command's ValueError, OSError and RunStopped into one line on stderr and exit code 1.

    These are what the library raises for bad input. Anything else is a defect of ours and keeps
    its traceback, as everything does when VFLOW_TRACEBACK=1.
    """

    @functools.wraps(command)
    @as_unix_tools_do
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except KeyboardInterrupt as interruption:
            print(f"vflow: {str(interruption) or 'interrupted'}", file=sys.stderr)
            raise SystemExit(EXIT_INTERRUPTED) from None
        except BrokenPipeError:  # of our output, for nothing else here writes to a pipe
            raise
        except (ValueError, OSError, RunStopped) as error:
            if os.environ.get("VFLOW_TRACEBACK") == "1":
                raise
            print(f"vflow: error: {' '.join(str(error).split())}", file=sys.stderr)
            raise SystemExit(EXIT_ERROR) from None

    return wrapped
