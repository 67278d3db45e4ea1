"""Images from .npy and .npz files, read without pickle."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vflow.data.request import Request

_KEYS = ("images", "data")


def load(request: Request) -> NDArray[np.uint8]:
    """Images from an array file, uint8 [N, H, W, C].

    PATH is one of
      - a folder with train.npy or train.npz, and test.npy or test.npz;
      - a name with {split} in it, as in "cats-{split}.npy";
      - an .npz file with the arrays "train" and "test";
      - one .npy file, or an .npz file with one array (or several, one of them "images" or
        "data"): images 0, 10, 20, ... are the test set and the others the training set.

    Returns:
        uint8 [N, C, H, W].
    """
    path, is_split = _locate(request)
    stored, is_own_array = _read(path, None if is_split else request.split)
    _check(stored, path)
    if not is_split and not is_own_array:
        if len(stored) < 2:
            raise ValueError(f"{path} must hold at least 2 images to be split, got {len(stored)}")
        test = np.arange(len(stored)) % 10 == 0
        stored = stored[test if request.split == "test" else ~test]
    height, width = stored.shape[1:3]
    if request.image_size is not None and (height, width) != (request.image_size,) * 2:
        raise ValueError(
            f"image_size must be the arrays' own for {request.spec}, {height}x{width}, "
            f"got {request.image_size}"
        )
    return stored.transpose(0, 3, 1, 2)


def _locate(request: Request) -> tuple[Path, bool]:
    """The file to read, and whether it holds the asked split alone."""
    path, split = request.path, request.split
    if "{split}" in str(path):
        return Path(str(path).replace("{split}", split)), True
    if path.is_dir():
        candidates = [path / f"{split}.npy", path / f"{split}.npz"]
        for candidate in candidates:
            if candidate.is_file():
                return candidate, True
        raise FileNotFoundError(f"{path} must hold {split}.npy or {split}.npz, found neither")
    return path, False


def _read(path: Path, split: str | None) -> tuple[NDArray[np.generic], bool]:
    """An array of a file, and whether it is one stored under the name of `split`."""
    if not path.is_file():
        raise FileNotFoundError(f"npy: needs a .npy or .npz file or a folder, found none at {path}")
    if path.suffix not in (".npy", ".npz"):
        raise ValueError(f"npy: must name a .npy or .npz file or a folder, got {path}")
    try:
        if path.suffix == ".npy":
            # Mapped, so that a split of a large file is all that comes into memory.
            return np.load(path, mmap_mode="r", allow_pickle=False), False
        with np.load(path, allow_pickle=False) as file:
            if split is not None and {"train", "test"} <= set(file.files):
                return file[split], True
            return file[_choose(path, file.files)], False
    except (ValueError, EOFError, OSError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path} must be a whole {path.suffix} file: {error}") from error


def _choose(path: Path, names: list[str]) -> str:
    if len(names) == 1:
        return names[0]
    for key in _KEYS:
        if key in names:
            return key
    raise ValueError(f"expected one array, or train and test, or images or data, got {names}")


def _check(array: NDArray[np.generic], path: Path) -> None:
    if array.dtype != np.uint8:
        raise ValueError(f"{path} must hold uint8, got {array.dtype}")
    if array.ndim != 4 or 0 in array.shape:
        raise ValueError(f"{path} must have a non-empty shape [N, H, W, C], got {array.shape}")
