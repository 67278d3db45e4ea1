"""The registry of data sets, and what one is asked for: a file and a `register` each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vflow.data.image_size import Size, parse_size, size_text

DEFAULT_SIZE = (32, 32)


@dataclass(frozen=True, kw_only=True)
class Request:
    """One call of `load_images`, its arguments checked.

    Args:
        spec: The whole spec, for error messages.
        path: What follows the colon of the spec, with "~" expanded; "." for sources without one.
        split: "train", "val" or "test".
        size: The height and width to give, or None for the files' own.
        channels: The channels to give, or None for the files' own.
        root: Where downloaded data sets are kept.
    """

    spec: str
    path: Path
    split: str
    size: Size | None
    channels: int | None
    root: Path

    @property
    def home(self) -> Path:
        """The folder of a downloaded data set."""
        return self.root / self.spec

    def find(self, *names: str) -> Path | None:
        """The first file or folder there is of `names`, looked for in root/SPEC and in root."""
        for folder in (self.home, self.root):
            for name in names:
                if (folder / name).exists():
                    return folder / name
        return None

    def require(self, *names: str) -> Path:
        """Like `find`, but a missing file is an error that says where it belongs."""
        found = self.find(*names)
        if found is None:
            raise FileNotFoundError(
                f"{self.spec} needs {' or '.join(names)} in {self.home}, "
                "found none there (another root: VFLOW_DATA or root=)"
            )
        return found

    def no_split(self, available: tuple[str, ...]) -> FileNotFoundError:
        """The error for a split that there is none of."""
        there = " and ".join(available)
        return FileNotFoundError(f"{self.spec} has no {self.split} images, only those of {there}")


def _train_and_test(request: Request) -> tuple[str, ...]:
    return ("train", "test")


@dataclass(frozen=True, kw_only=True)
class Source:
    """A data set, or a kind of files, that `load_images` can be asked for.

    Args:
        name: What `--data` calls it; a path follows after a colon if `takes_path`.
        help: A line for the reader of a list.
        load: Gives the images of a request, uint8 [N, C, H, W], N >= 1.
        splits: Gives the splits there are, without loading them; the request's own plays no part.
            A source with a path raises `request.no_split` for the others by itself.
        sizes: Heights and widths it can be had at, the default first; None for any (by default
            32x32), () for those of its files.
        channels: Channels it can be had with, the default first; () for those of its files.
        takes_path: Whether the spec is "NAME:PATH".
    """

    name: str
    help: str
    load: Callable[[Request], NDArray[np.uint8]]
    splits: Callable[[Request], tuple[str, ...]] = _train_and_test
    sizes: tuple[Size, ...] | None = None
    channels: tuple[int, ...] = ()
    takes_path: bool = False

    @property
    def form(self) -> str:
        """Its spec as the help shows it."""
        return f"{self.name}:PATH" if self.takes_path else self.name

    def has_size(self, size: Size) -> bool:
        """Whether it can be had at that height and width, whatever its files hold."""
        return self.sizes is None or size in self.sizes

    def resolve_size(self, spec: str, size: Any) -> Size | None:
        """The size to load at, None for the files' own.

        Raises:
            ValueError: If it is no size, or none that the source can be had at.
        """
        if size is None:
            return DEFAULT_SIZE if self.sizes is None else next(iter(self.sizes), None)
        size = parse_size(size)
        if self.sizes and size not in self.sizes:
            allowed = " or ".join(map(size_text, self.sizes))
            raise ValueError(f"image_size must be {allowed} for {spec}, got {size_text(size)}")
        return size

    def resolve_channels(self, spec: str, channels: Any) -> int | None:
        """The number of channels to load, None for the files' own.

        Raises:
            ValueError: If it is none that the source can be had with.
        """
        if channels is None:
            return next(iter(self.channels), None)
        if isinstance(channels, bool) or not isinstance(channels, int) or channels < 1:
            raise ValueError(f"channels must be a positive integer, got {channels!r}")
        if self.channels and channels not in self.channels:
            allowed = " or ".join(map(str, self.channels))
            raise ValueError(f"channels must be {allowed} for {spec}, got {channels}")
        return channels


SOURCES: dict[str, Source] = {}
"""Every source by its name, in the order of the help."""
KNOWN_SOURCES: dict[str, str] = {}
"""Every spec `load_images` takes, with a line on each."""


def register(source: Source) -> Source:
    """Make a source known to `load_images` and to every `--data`.

    Raises:
        ValueError: If there is one of that name.
    """
    if source.name in SOURCES:
        raise ValueError(f"name must be that of no other data set, got {source.name!r}")
    SOURCES[source.name] = source
    # Those with a path last.
    ordered = sorted(SOURCES.values(), key=lambda source: source.takes_path)
    KNOWN_SOURCES.clear()
    KNOWN_SOURCES.update({source.form: source.help for source in ordered})
    return source


def data_help() -> str:
    """A line for the help of `--data`."""
    *others, last = KNOWN_SOURCES
    return f"Data set: {', '.join(others)} or {last}; or the path of a folder, .npy or .npz."
