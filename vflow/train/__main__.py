"""`python -m vflow.train`, also under torchrun."""

from __future__ import annotations

from collections.abc import Sequence

from vflow.runtime import arguments
from vflow.runtime.console import one_line_errors
from vflow.train import TrainConfig, train


def parse(args: Sequence[str] | None = None) -> TrainConfig:
    """The config that a command line means, by default this process's; else a ValueError."""
    return arguments.parse(TrainConfig, "python -m vflow.train", args)


@one_line_errors
def main() -> None:
    """Train as the command line says."""
    train(parse())


if __name__ == "__main__":
    main()
