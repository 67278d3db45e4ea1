"""The command line that trains as a run did."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import Any

from vflow.nets.recompute import take_recompute
from vflow.train.config import TrainConfig

_OF_A_MACHINE = ("out", "data", "data_root", "preset")
"""What is said otherwise, or is of one machine alone."""


def train_command(config: dict[str, Any], data: str = "DATA") -> str:
    """The command that trains by a config: what differs from the defaults, as flags.

    Args:
        config: As `TrainConfig.to_json` gives it, and a run's config.json holds it.
        data: What `--data` is given.

    Returns:
        One line for a shell.
    """
    kept = {name: value for name, value in config.items() if name not in _OF_A_MACHINE}
    if "recompute" in kept:  # of older runs a bool
        kept["recompute"] = take_recompute(kept["recompute"])
    words = ["vflow", "train", "--preset", config["preset"], "--data", data]
    return shlex.join([*words, *_flags(kept, TrainConfig().to_json())])


def _flags(config: dict[str, Any], defaults: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in config.items():
        flag = f"{prefix}{name.replace('_', '-')}"
        if isinstance(value, dict):
            yield from _flags(value, defaults.get(name, {}), f"{flag}.")
        elif value == defaults.get(name):
            continue
        elif isinstance(value, bool) and isinstance(defaults.get(name), bool):
            yield f"--{flag}" if value else f"--{prefix}no-{name.replace('_', '-')}"
        elif name == "image_size" and isinstance(value, list | tuple):
            yield from (f"--{flag}", "x".join(map(str, value)))
        elif isinstance(value, list | tuple):
            yield from (f"--{flag}", *map(str, value))
        else:
            yield from (f"--{flag}", str(value))
