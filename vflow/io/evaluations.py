"""What the file of an evaluation holds, in words."""

from __future__ import annotations

from collections.abc import Mapping


def with_stderr(bits: Mapping[str, float | None]) -> str:
    """A mean with its standard error, where there is one: "3.6785 ± 0.0058"."""
    stderr = "" if bits["stderr"] is None else f" ± {bits['stderr']:.4f}"
    return f"{bits['mean']:.4f}{stderr}"
