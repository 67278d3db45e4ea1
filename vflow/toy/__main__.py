"""`python -m vflow.toy`: as `vflow toy`."""

from __future__ import annotations

import tyro

from vflow.console import one_line_errors
from vflow.toy import ToyConfig, toy


@one_line_errors
def main() -> None:
    """Run what the command line says."""
    toy(tyro.cli(ToyConfig, prog="python -m vflow.toy"))


if __name__ == "__main__":
    main()
