"""The image files under a folder, each once, and what there is beside them."""

from __future__ import annotations

import os
import stat
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

SUFFIXES = (
    *(".apng", ".avif", ".bmp", ".dib", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm"),
    *(".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"),
)
"""Files that are read, in small or capital letters."""
_OTHER_SUFFIXES = (
    *(".arw", ".cr2", ".cr3", ".dcm", ".dng", ".emf", ".eps", ".exr", ".fits", ".hdr", ".heic"),
    *(".heif", ".ico", ".j2k", ".jp2", ".jxl", ".nef", ".orf", ".pcx", ".pfm", ".psd", ".qoi"),
    *(".raf", ".rw2", ".svg", ".tga", ".wmf", ".xcf"),
)


@dataclass
class Walk:
    """What a folder holds.

    Args:
        files: Size in bytes and time of change in nanoseconds of every image file, by its name
            relative to the folder, with forward slashes.
        left_out: Names of what is passed over although it may be meant, by the reason.
    """

    files: dict[str, tuple[int, int]] = field(default_factory=dict)
    left_out: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))


def walk(folder: Path) -> Walk:
    """Find the image files under a folder.

    Links are followed, after all that is there without them: a folder or file that several names
    lead to is found once, and a link to a folder above leads nowhere. Names that begin with a dot
    are passed over.

    Raises:
        OSError: If a folder cannot be read; nothing is left out for that.
    """
    walker = _Walker(folder)
    walker.enter("", folder.stat())
    while walker.links:
        links, walker.links = sorted(walker.links), []
        for name in links:
            walker.follow(name)
    return walker.found


class _Walker:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.found = Walk()
        self.links: list[str] = []
        # Folders and files by their place on the disk; those above count as seen.
        self.seen = {_identity(above.stat()) for above in Path(os.path.realpath(root)).parents}

    def enter(self, name: str, status: os.stat_result) -> None:
        """Take in a folder and those in it, but put off its links."""
        self.seen.add(_identity(status))
        with os.scandir(os.path.join(self.root, name)) as entries:
            inside = sorted(entries, key=lambda entry: entry.name)
        for entry in inside:
            path = f"{name}/{entry.name}" if name else entry.name
            if entry.name.startswith("."):
                continue
            if entry.is_symlink():
                self.links.append(path)
            elif entry.is_dir():
                self.enter(path, entry.stat())
            else:
                self.take(path, entry.stat())

    def follow(self, name: str) -> None:
        """Take in what a link leads to."""
        try:
            status = os.stat(os.path.join(self.root, name))
        except OSError:  # nothing there, or a link that leads to itself
            self.found.left_out["broken links"].append(name)
            return
        is_folder = stat.S_ISDIR(status.st_mode)
        if _identity(status) in self.seen:
            if is_folder or _suffix(name) in SUFFIXES:
                self.found.left_out["links to what is there by another name"].append(name)
        elif is_folder:
            self.enter(name, status)
        else:
            self.take(name, status)

    def take(self, name: str, status: os.stat_result) -> None:
        """Take in a file if it is an image."""
        suffix = _suffix(name)
        if suffix in _OTHER_SUFFIXES:
            self.found.left_out["files of kinds that are not read"].append(name)
        elif suffix in SUFFIXES:
            if stat.S_ISREG(status.st_mode):
                self.seen.add(_identity(status))
                self.found.files[name] = (status.st_size, status.st_mtime_ns)
            else:  # a pipe would be waited on
                self.found.left_out["names of images that are no files"].append(name)


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()
