"""`python -m vflow.toy`: as `vflow toy`."""

from __future__ import annotations

from vflow.runtime.arguments import parse
from vflow.runtime.console import one_line_errors
from vflow.toy import ToyConfig, toy


@one_line_errors
def main() -> None:
    """Run what the command line says."""
    toy(parse(ToyConfig, "python -m vflow.toy"))


if __name__ == "__main__":
    main()
