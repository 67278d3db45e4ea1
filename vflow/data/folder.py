"""Any folder of images, brought to one size."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import Image

from vflow.data.decode import MODES, UNREADABLE, decode
from vflow.data.folder_cache import Notes, cache_root, cached
from vflow.data.folder_splits import Arrangement, arrange
from vflow.data.folder_walk import SUFFIXES, Walk, walk
from vflow.data.image_size import Size
from vflow.data.source import Request, Source, register
from vflow.data.split_names import in_order
from vflow.runtime.progress import bar

CACHE_FROM = 1000
"""Images from which on the decoded ones are kept."""
_DECODING = 1  # to be raised when `decode` gives other bytes
_NAMED_AT_MOST = 10
_MANY = 500
_CHUNK = 4096
_UNREADABLE, _FRAMES = "unreadable", "frames"


class FolderWarning(UserWarning):
    """Something in a folder was left out, or taken otherwise than it may be meant."""


class UnreadableImagesWarning(FolderWarning):
    """Some files of a folder are not images that can be read; the others were loaded."""


def load(request: Request) -> NDArray[np.uint8]:
    """All images under a folder, sorted by name.

    Each is turned upright by its EXIF orientation, resized (Lanczos) so that it covers the image
    size (default 32x32), and cropped at its centre. Transparency is dropped unless 2 or 4 channels
    are asked for, the first frame of an animation taken. `folder_splits.arrange` tells the splits:
    subfolders named for them if there are any, else about one in ten goes to the test set by a
    hash of its name. Links are followed; names that begin with a dot are passed over.

    The decoded images of large folders are kept in $VFLOW_CACHE, or else ~/.cache/vflow.

    Returns:
        uint8 [N, channels, height, width].

    Warns:
        UnreadableImagesWarning: Names the files that are damaged or too large to be believed
            (Pillow's limit against decompression bombs), which are skipped.
        FolderWarning: Names what else is left out.
    """
    assert request.size is not None
    assert request.channels is not None
    found = _walk(request)
    arrangement = arrange(found.files)
    names = _names_of_split(request, found, arrangement)
    images, notes = _images(request, {name: found.files[name] for name in names})
    unreadable = notes.get(_UNREADABLE, [])
    if not len(images):
        raise ValueError(
            f"{request.path} must hold readable images, got {len(names)} files and none is: "
            f"{unreadable[0]}"
        )
    if unreadable:
        _warn(
            f"skipped {len(unreadable)} of {len(names)} images of {request.path} as unreadable",
            unreadable,
            UnreadableImagesWarning,
        )
    for reason, left_out in {**found.left_out, **arrangement.left_out}.items():
        _warn(f"{request.path}: left out {len(left_out)} {reason}", left_out)
    for remark, about in arrangement.remarks.items():
        _warn(f"{request.path}: {len(about)} {remark}", about)
    if frames := notes.get(_FRAMES):
        _warn(f"{request.path}: took the first frame alone of {len(frames)} images", frames)
    return images


def splits(request: Request) -> tuple[str, ...]:
    """The splits that have images."""
    found = arrange(_walk(request).files).splits
    return in_order(split for split, names in found.items() if names)


def _walk(request: Request) -> Walk:
    folder = request.path
    if not folder.is_dir():
        raise FileNotFoundError(f"{request.spec} must name a folder, found none at {folder}")
    found = walk(folder)
    if not found.files:
        others = [name for names in found.left_out.values() for name in names]
        beside = f", but {len(others)} others such as {others[0]}" if others else ""
        raise ValueError(
            f"{folder} must hold images ({' '.join(SUFFIXES)}), found no such file{beside}"
        )
    return found


def _names_of_split(request: Request, found: Walk, arrangement: Arrangement) -> list[str]:
    split = request.split
    if rivals := arrangement.rivals.get(split):
        raise ValueError(
            f"{request.path} must have one folder for {split}, got {' and '.join(sorted(rivals))}"
        )
    names = arrangement.splits.get(split)
    if names:
        return names
    if arrangement.by_hash and split != "val":
        raise ValueError(
            f"{request.path} has too few images for a {split} split of its own, got "
            f"{len(found.files)}: sort them into subfolders train and test"
        )
    raise request.no_split(in_order(arrangement.splits))


def _images(request: Request, files: dict[str, tuple[int, int]]) -> tuple[NDArray[np.uint8], Notes]:
    """The images of files, and notes on them."""
    size, channels = request.size, request.channels
    assert size is not None
    assert channels is not None

    def rows(notes: Notes) -> Iterator[NDArray[np.uint8]]:
        return _decode_all(request.path, list(files), size, channels, notes)

    root = cache_root() if len(files) >= CACHE_FROM else None
    if root is not None:
        identity = [os.path.realpath(request.path), request.split, size, channels]
        content = [_DECODING, PIL.__version__, size, channels, list(files.items())]
        try:
            root.mkdir(parents=True, exist_ok=True)
            writable = os.access(root, os.W_OK | os.X_OK)
        except OSError:
            writable = False
        if writable:
            return cached(root, identity, content, (len(files), channels, *size), rows)
        _warn(f"{root} is not writable, so that {request.path} is decoded each time", [])
    notes: Notes = {}
    images = list(rows(notes))
    return np.stack(images) if images else np.empty((0, channels, *size), np.uint8), notes


def _decode_all(
    folder: Path, names: list[str], size: Size, channels: int, notes: Notes
) -> Iterator[NDArray[np.uint8]]:
    """The readable images in order, with a line in the notes on each that is not."""
    Image.init()  # Pillow knows a format named to open() only once its plugin is loaded

    def read(name: str) -> tuple[NDArray[np.uint8], bool] | str:
        try:
            return decode(folder / name, size, channels)
        except UNREADABLE as error:
            return f"{folder / name} ({type(error).__name__}: {' '.join(str(error).split())})"

    with (
        warnings.catch_warnings(),
        ThreadPoolExecutor() as pool,
        bar(desc="images", total=len(names), disable=len(names) < _MANY) as shown,
    ):
        warnings.simplefilter("ignore")  # of Pillow's, about metadata that plays no part here
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        for start in range(0, len(names), _CHUNK):
            chunk = names[start : start + _CHUNK]
            for name, result in zip(chunk, pool.map(read, chunk), strict=True):
                shown.update()
                if isinstance(result, str):
                    notes.setdefault(_UNREADABLE, []).append(result)
                else:
                    image, more_frames = result
                    if more_frames:
                        notes.setdefault(_FRAMES, []).append(name)
                    yield image


def _warn(message: str, names: list[str], category: type[FolderWarning] = FolderWarning) -> None:
    more = len(names) - _NAMED_AT_MOST
    listed = "; ".join(names[:_NAMED_AT_MOST]) + (f"; and {more} more" if more > 0 else "")
    text = f"{message}: {listed}" if names else message
    warnings.warn(text, category, stacklevel=4)  # where load_images was called


register(
    Source(
        name="folder",
        help="any folder of images, resized and centre-cropped to SxS or HxW (default 32)",
        load=load,
        splits=splits,
        channels=(3, *sorted(MODES.keys() - {3})),
        takes_path=True,
    )
)
