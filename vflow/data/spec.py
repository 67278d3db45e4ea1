"""What a user writes for `--data`, and which source and path it means."""

from __future__ import annotations

import difflib
import re
from pathlib import Path

from vflow.data.source import KNOWN_SOURCES, SOURCES, Source
from vflow.data.split_names import array_split

ARRAY_SUFFIXES = (".npy", ".npz")


def find_source(spec: str) -> Source:
    """The source that a spec means.

    Raises:
        ValueError: If it is none, with the nearest names.
        FileNotFoundError: If it is a path and nothing is there.
    """
    return parse_spec(spec)[0]


def parse_spec(spec: str) -> tuple[Source, Path]:
    """Split a spec into its source and its path ("." for a source without one).

    Args:
        spec: NAME, or NAME:PATH, or the path alone of a folder, a .npy or a .npz file.

    Raises:
        ValueError: If it is none of these, with the nearest names.
        FileNotFoundError: If it is a path and nothing is there.
    """
    if not isinstance(spec, str):
        raise ValueError(f"data must be the name of a data set, got {spec!r}")
    name, colon, text = spec.partition(":")
    if name not in SOURCES:
        return _parse_path(spec)
    source = SOURCES[name]
    if source.takes_path and not text.strip():
        raise ValueError(f"data must name a path, as in {name}:PATH, got {spec!r}")
    if colon and not source.takes_path:
        raise ValueError(f"data must be {name} alone, without a path, got {spec!r}")
    return source, expand(text)


def expand(text: str | Path) -> Path:
    """A path with "~" as the shell has it.

    Raises:
        ValueError: If there is no such home, or no path can be written so.
    """
    if "\0" in str(text):
        raise ValueError(f"a path must hold no null character, got {str(text)!r}")
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise ValueError(f"{text} must begin with the home of a user here: {error}") from error


def _parse_path(spec: str) -> tuple[Source, Path]:
    windows = re.match(r"[A-Za-z]:[\\/]", spec)
    if spec.strip() and (windows or ":" not in spec):
        path = expand(spec)
        if path.is_dir():
            return SOURCES["npy" if _holds_arrays(path) else "folder"], path
        if path.suffix.lower() in ARRAY_SUFFIXES and (path.is_file() or "{split}" in spec):
            return SOURCES["npy"], path
        if path.is_file():
            raise ValueError(f"data must be a folder, a .npy or a .npz file, but {path} is neither")
        if windows or "/" in spec or "\\" in spec or spec[0] in "~." or path.suffix:
            raise FileNotFoundError(f"data must be there, but there is nothing at {path}")
    names = {name.lower(): name for name in SOURCES}
    asked = re.sub(r"[\s_]", "-", spec.partition(":")[0].lower())
    close = [names[name] for name in difflib.get_close_matches(asked, names, n=3)]
    hint = f" (did you mean {' or '.join(close)}?)" if close else ""
    raise ValueError(f"data must be one of {', '.join(KNOWN_SOURCES)}, got {spec!r}{hint}")


def _holds_arrays(folder: Path) -> bool:
    return any(
        path.suffix.lower() in ARRAY_SUFFIXES and array_split(path.stem) is not None
        for path in folder.iterdir()
    )
