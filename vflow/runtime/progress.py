"""How far something has come."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from tqdm import tqdm

LOG_SECONDS = 60


class NoBar:
    """Shows nothing, where tqdm is not installed: no result depends on it."""

    disable = True

    def update(self, n: float | None = 1) -> None:
        """Show nothing."""

    def set_postfix_str(self, s: str = "", refresh: bool = True) -> None:
        """Show nothing."""

    def set_description(self, desc: str | None = None, refresh: bool | None = True) -> None:
        """Show nothing."""

    def __enter__(self) -> NoBar:
        return self

    def __exit__(self, *exception: object) -> None:
        pass


Bar: TypeAlias = "tqdm[Any] | NoBar"


def bar(**options: Any) -> Bar:
    """A bar by the options of tqdm."""
    try:
        from tqdm import tqdm
    except ModuleNotFoundError:
        return NoBar()
    return tqdm(**options)


def progress_bar(total: int, unit: str, initial: int = 0, show: bool = True) -> Bar:
    """A bar on a terminal; elsewhere, such as in a log, a line a minute."""
    every = 0.1 if sys.stderr.isatty() else LOG_SECONDS
    return bar(
        total=total,
        initial=initial,
        unit=f" {unit}",
        mininterval=every,
        delay=0 if sys.stderr.isatty() else LOG_SECONDS,
        disable=not show,
    )
