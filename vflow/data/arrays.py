"""Images from .npy and .npz files, read without pickle."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vflow.data.array_layout import check_dtype, check_layout
from vflow.data.image_size import size_text
from vflow.data.mapped import map_array
from vflow.data.npy import UNREADABLE, Header, read_header, read_headers
from vflow.data.source import Request, Source, register
from vflow.data.spec import ARRAY_SUFFIXES
from vflow.data.split_names import SPLITS, array_split, in_order, is_images, spellings

_KNOWN = (
    "x_train, x_test and x_val (or train, test_images, X_valid, ...), or images, x, data or arr_0 "
    "for all"
)
_TEST_EVERY = 10


@dataclass(frozen=True)
class _Stored:
    """An array on the disk."""

    path: Path
    key: str | None  # of an .npz file
    header: Header

    def __str__(self) -> str:
        return str(self.path) if self.key is None else f"{self.key} of {self.path}"


def load(request: Request) -> NDArray[np.uint8]:
    """Images from an array file, uint8 [N, H, W, C], or [N, H, W] in grey.

    PATH is one of
      - a folder with files named for the splits: train.npy, x_test.npz, val_images.npy, ...;
      - a name with {split} in it, as in "cats-{split}.npy";
      - an .npz file with arrays named for the splits: train, x_test, X_val, test_images, ...;
      - one .npy file, or an .npz file with one array of images (the only one, or one named images,
        x, data or arr_0): images 0, 10, 20, ... are the test set and the others the training set.

    A .npy file that holds a whole split is mapped: it may be larger than memory.

    Returns:
        uint8 [N, C, H, W].
    """
    found = _locate(request)
    if isinstance(found, dict):
        stored, is_whole_split = _of_split(request, found), True
    else:
        stored, is_whole_split = found, False
        if request.split == "val":
            raise request.no_split(("train", "test"))
    check_dtype(stored.header.dtype, str(stored))
    shape = check_layout(stored.header.shape, str(stored))
    _check_wanted(request, shape)
    if not is_whole_split and shape[0] < 2:
        raise ValueError(f"{stored} must hold at least 2 images to be split, got {shape[0]}")
    if not is_whole_split or stored.key is not None:
        _require_memory(stored, shape)
    array = _read(stored).reshape(shape)
    if not is_whole_split:
        test = np.arange(len(array)) % _TEST_EVERY == 0
        array = array[test if request.split == "test" else ~test]
    return array.transpose(0, 3, 1, 2)


def splits(request: Request) -> tuple[str, ...]:
    """The splits that the files are named for; train and test where one is to be split."""
    found = _locate(request)
    return in_order(found) if isinstance(found, dict) else ("train", "test")


def _locate(request: Request) -> dict[str, list[_Stored | Path]] | _Stored:
    """What there is for each split, or the one array that holds all of them."""
    path = request.path
    if "{split}" in str(path):
        found = {split: _spelt(path, split) for split in SPLITS}
        if not any(found.values()):
            example = str(path).replace("{split}", request.split)
            raise FileNotFoundError(f"{request.spec} needs {example}, found none there")
        return {split: list(paths) for split, paths in found.items() if paths}
    if path.is_dir():
        return _list_folder(path)
    if not path.is_file():
        raise FileNotFoundError(f"npy: needs a .npy or .npz file or a folder, found none at {path}")
    if path.suffix.lower() == ".npz":
        keys = _headers(path)
        named: dict[str, list[_Stored | Path]] = {}
        for key, header in keys.items():
            if split := array_split(key):
                named.setdefault(split, []).append(_Stored(path, key, header))
        if named:
            return named
    return _open(path)


def _list_folder(folder: Path) -> dict[str, list[_Stored | Path]]:
    found: dict[str, list[_Stored | Path]] = {}
    for path in sorted(folder.iterdir()):
        split = array_split(path.stem)
        if split and path.suffix.lower() in ARRAY_SUFFIXES and not path.name.startswith("."):
            found.setdefault(split, []).append(path)
    if not found:
        raise FileNotFoundError(
            f"{folder} must hold train.npy or train.npz, found neither (folder:PATH is for images)"
        )
    return found


def _spelt(pattern: Path, split: str) -> list[Path]:
    """The files that a pattern names for a split, each once."""
    found: dict[tuple[int, int], Path] = {}
    for word in spellings(split):
        path = Path(str(pattern).replace("{split}", word))
        if path.is_file():
            status = path.stat()  # where case plays no part, two spellings are one file
            found.setdefault((status.st_dev, status.st_ino), path)
    return list(found.values())


def _of_split(request: Request, found: dict[str, list[_Stored | Path]]) -> _Stored:
    if request.split not in found:
        raise request.no_split(in_order(found))
    choices = found[request.split]
    if len(choices) > 1:
        raise ValueError(
            f"{request.spec} must have one array for {request.split}, got "
            f"{' and '.join(map(str, choices))}"
        )
    (choice,) = choices
    return _open(choice, request.split) if isinstance(choice, Path) else choice


def _open(path: Path, split: str | None = None) -> _Stored:
    """The array of images in a file, which holds `split` alone if one is given."""
    if path.suffix.lower() not in ARRAY_SUFFIXES:
        raise ValueError(f"npy: must name a .npy or .npz file or a folder, got {path}")
    if path.suffix.lower() == ".npy":
        try:
            with open(path, "rb") as file:
                return _Stored(path, None, read_header(file))
        except UNREADABLE as error:
            raise _broken(path, error) from error
    headers = _headers(path)
    key = _choose(path, headers, split)
    return _Stored(path, key, headers[key])


def _headers(path: Path) -> dict[str, Header]:
    try:
        return read_headers(path)
    except UNREADABLE as error:
        raise _broken(path, error) from error


def _choose(path: Path, headers: dict[str, Header], split: str | None) -> str:
    names = list(headers)
    if len(names) == 1:
        return names[0]
    stacks = [name for name in names if len(headers[name].shape) >= 3]
    choices = [name for name in names if split is not None and array_split(name) == split]
    choices = choices or [name for name in names if is_images(name)]
    if len(choices) > 1:
        choices = [name for name in choices if name in stacks]
    if not choices and stacks == ["arr_0"]:
        choices = stacks  # numpy.savez(path, images, labels)
    if len(choices) != 1:
        raise ValueError(
            f"{path} must hold its images under {_KNOWN}, or hold one array, got {_list(names)}"
        )
    return choices[0]


def _read(stored: _Stored) -> NDArray[np.generic]:
    path, header = stored.path, stored.header
    try:
        if stored.key is None:
            return map_array(path, header.shape, header.dtype, header.fortran, header.offset)
        with np.load(path, allow_pickle=False) as file:
            array: NDArray[np.generic] = file[stored.key]
            return array
    except UNREADABLE as error:
        raise _broken(path, error) from error


def _check_wanted(request: Request, shape: tuple[int, ...]) -> None:
    _, height, width, channels = shape
    if request.size is not None and (height, width) != request.size:
        raise ValueError(
            f"image_size must be the arrays' own for {request.spec}, {height}x{width}, "
            f"got {size_text(request.size)}"
        )
    if request.channels not in (None, channels):
        raise ValueError(
            f"channels must be the arrays' own for {request.spec}, {channels}, "
            f"got {request.channels}"
        )


def _require_memory(stored: _Stored, shape: tuple[int, ...]) -> None:
    """Raise where a copy of the array could not be held, which Linux would answer by a kill."""
    needed = int(np.prod(shape, dtype=np.float64))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > memory:
        raise ValueError(
            f"{stored} must fit into the memory of {memory / 1e9:.0f} GB, got {needed / 1e9:.0f} "
            "GB: only .npy files of one split each, as train.npy and test.npy, may be larger"
        )


def _broken(path: Path, error: BaseException) -> ValueError:
    return ValueError(f"{path} must be a whole {path.suffix.lower()} file: {error}")


def _list(names: Iterable[str], most: int = 10) -> str:
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return (", ".join(names[:most]) or "no array") + more


register(
    Source(
        name="npy",
        help="uint8 [N, H, W, C] from a .npy or .npz file, or train and test files in a folder",
        load=load,
        splits=splits,
        sizes=(),
        takes_path=True,
    )
)
