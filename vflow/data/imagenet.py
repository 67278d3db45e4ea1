"""Downsampled ImageNet from its official .npz files."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vflow.data.npy import UNREADABLE, read_header
from vflow.data.source import Request, Source, register
from vflow.runtime.progress import bar

_FILES = {"train": [f"train_data_batch_{i}.npz" for i in range(1, 11)], "test": ["val_data.npz"]}


def load(request: Request) -> NDArray[np.uint8]:
    """ImageNet at 32x32 or 64x64 (Chrabaszcz et al., 2017): 1,281,167 train, 50,000 test images.

    Looked for in root/imagenet32 (or imagenet64) and in root: train_data_batch_1.npz to
    train_data_batch_10.npz, and val_data.npz, which is the test split. These were reduced in
    another way than the older PNG version (van den Oord et al., 2016): bits/dim of the two do not
    compare. All of train takes 3.9 GB of memory at 32x32 and 15.7 GB at 64x64.

    Returns:
        uint8 [N, 3, S, S].
    """
    assert request.size is not None
    size = request.size[0]
    paths = [request.require(name) for name in _FILES[request.split]]
    # The counts come first, from the headers alone, so that the whole is held in memory only once.
    counts = [_read_count(path, 3 * size * size) for path in paths]
    images = np.empty((sum(counts), 3, size, size), np.uint8)
    start = 0
    with bar(desc=request.spec, total=len(paths), disable=len(paths) == 1) as shown:
        for path, count in zip(paths, counts, strict=True):
            images[start : start + count] = _read(path).reshape(count, 3, size, size)
            start += count
            shown.update()
    return images


def _read_count(path: Path, pixels: int) -> int:
    """Number of images in a file, after a look at its header."""
    try:
        with zipfile.ZipFile(path) as archive, archive.open("data.npy") as file:
            header = read_header(file)
    except UNREADABLE as error:
        raise _broken(path, error) from error
    shape, dtype = header.shape, header.dtype
    if dtype != np.uint8 or len(shape) != 2 or shape[0] == 0 or shape[1] != pixels:
        raise ValueError(
            f"{path} must hold 'data' of uint8 and shape [N, {pixels}], got {dtype} {shape}"
        )
    return shape[0]


def _read(path: Path) -> NDArray[np.uint8]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return file["data"]
    except UNREADABLE as error:
        raise _broken(path, error) from error


def _broken(path: Path, error: BaseException) -> ValueError:
    return ValueError(f"{path} must be a whole .npz file with the array 'data': {error}")


for _side in (32, 64):
    register(
        Source(
            name=f"imagenet{_side}",
            help=f"downsampled ImageNet, {_side}x{_side}: the official .npz files from the data "
            "folder",
            load=load,
            sizes=((_side, _side),),
            channels=(3,),
        )
    )
