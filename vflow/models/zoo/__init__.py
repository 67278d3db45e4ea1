"""Trained models that come with the package: a folder each, with weights, card and evaluations.

`evaluation-*.json` are files of `vflow evaluate`; what is told of a model's likelihood is read from
them.
"""

from __future__ import annotations

import fnmatch
import re
from pathlib import Path
from typing import Any

from vflow.io.evaluations import draws_of, with_stderr
from vflow.runtime.files import read_json

FOLDER = Path(__file__).parent
_CONFIG = "config.json"


def list_trained_models(pattern: str = "*") -> list[str]:
    """Names that `vflow.load_model` knows and that match a shell pattern, in alphabetical order."""
    names = (path.parent.name for path in FOLDER.glob(f"*/{_CONFIG}"))
    return sorted(fnmatch.filter(names, pattern))


def trained_folder(name: str | Path) -> Path | None:
    """The folder of a trained model's files, or None if none is of that name."""
    found = re.fullmatch(r"[a-z0-9][a-z0-9.-]*", str(name)) and FOLDER / str(name)
    return found if found and (found / _CONFIG).is_file() else None


def describe_trained(name: str) -> str:
    """One line on a trained model: what it reached in each evaluation, bits/dim.

    Raises:
        ValueError: If there is no such model.
    """
    folder = trained_folder(name)
    if folder is None:
        raise ValueError(f"name must be one of {', '.join(list_trained_models())}, got {name!r}")
    evaluations = (read_json(path) for path in folder.glob("evaluation-*.json"))
    in_order = sorted(evaluations, key=lambda found: (found["samples"], found["images"]))
    return "; ".join(map(_words, in_order))


def _words(found: dict[str, Any]) -> str:
    bits, samples = found["bits_per_dim"], found["samples"]
    how = "bound" if samples == 1 else f"{samples} importance samples"
    if draws_of(found) is not None:
        how = "bound, estimated"
    return (
        f"{with_stderr(bits)} bits/dim ({how}, "
        f"{found['images']:,} {found['split']} images of {found['data']})"
    )
