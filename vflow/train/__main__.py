"""`python -m vflow.train`, also under torchrun."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Sequence

import tyro

from vflow.console import one_line_errors
from vflow.train import TrainConfig, train

_BOX = re.compile(r"[╭╮╰╯│─]+")


def parse(
    arguments: Sequence[str] | None = None, prog: str = "python -m vflow.train"
) -> TrainConfig:
    """The config that a command line means.

    Args:
        arguments: What follows the command; by default sys.argv's.
        prog: The command's name, for its help.

    Raises:
        ValueError: In one line, if the command line means none; tyro would print a box and exit.
        SystemExit: After --help.
    """
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed):
            return tyro.cli(TrainConfig, prog=prog, args=arguments)
    except SystemExit as stop:
        if not stop.code:
            raise
        message = " ".join(_BOX.sub(" ", printed.getvalue()).split())
        message = re.sub(
            r"^(Value error )?(Error parsing (TrainConfig|optim|model): )?", "", message
        )
        message = re.sub(r" (For full helptext,|Argument helptext:) .*", "", message)
        raise ValueError(f"{message} (see {prog} --help)") from None


@one_line_errors
def main() -> None:
    """Train as the command line says."""
    train(parse())


if __name__ == "__main__":
    main()
