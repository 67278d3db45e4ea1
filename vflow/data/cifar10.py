"""CIFAR-10 from its official binary version, which needs no pickle."""

from __future__ import annotations

import tarfile
import zlib
from dataclasses import replace
from http.client import HTTPException
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vflow.data import arrays
from vflow.data.download import fetch, md5_of
from vflow.data.source import Request, Source, register

URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
ARCHIVE = "cifar-10-binary.tar.gz"
MD5 = "c32a1d4ab5d03f1284b67883e8d87530"
FOLDER = "cifar-10-batches-bin"
FILES = {"train": [f"data_batch_{i}.bin" for i in range(1, 6)], "test": ["test_batch.bin"]}
IMAGES_PER_FILE = 10_000
_PICKLES = ("cifar-10-batches-py", "cifar-10-python.tar.gz")
_ARRAYS = "cifar10.npz"
_PIXELS = 3 * 32 * 32


def load(request: Request) -> NDArray[np.uint8]:
    """CIFAR-10 (Krizhevsky, 2009): 50,000 training and 10,000 test images.

    Looked for in root/cifar10 and in root: the folder cifar-10-batches-bin or its files; the
    archive cifar-10-binary.tar.gz, whose MD5 is checked and which is read as it is; cifar10.npz,
    with the arrays x_train and x_test or their like. Where there is none of them, the archive is
    downloaded to root/cifar10. The Python version is not read: its files are pickles.

    Returns:
        uint8 [N, 3, 32, 32].
    """
    names = FILES[request.split]
    folder = request.find(FOLDER)
    if folder is None and (file := request.find(*names)) is not None:
        folder = file.parent
    if folder is not None:
        return _stack(request, {name: _read_file(folder / name) for name in names})
    archive = request.find(ARCHIVE)
    if archive is None and (stored := request.find(_ARRAYS)) is not None:
        return _read_arrays(request, stored)
    return _stack(request, _read_archive(archive or _download(request), names))


def _read_arrays(request: Request, path: Path) -> NDArray[np.uint8]:
    images = arrays.load(replace(request, path=path))
    expected = (IMAGES_PER_FILE * len(FILES[request.split]), 3, 32, 32)
    if images.shape != expected:
        raise ValueError(
            f"the {request.split} images of {path} must be CIFAR-10's, {expected}, got "
            f"{images.shape} (npy:PATH takes any)"
        )
    return images


def _stack(request: Request, contents: dict[str, bytes]) -> NDArray[np.uint8]:
    expected = IMAGES_PER_FILE * (1 + _PIXELS)
    for name, content in contents.items():
        if len(content) != expected:
            raise ValueError(
                f"{name} of {request.spec} must have {expected} bytes, got {len(content)}"
            )
    records = [np.frombuffer(c, np.uint8).reshape(-1, 1 + _PIXELS) for c in contents.values()]
    # The first byte of a record is its label.
    return np.concatenate([r[:, 1:] for r in records]).reshape(-1, 3, 32, 32)


def _read_file(path: Path) -> bytes:
    if not path.is_file():
        raise FileNotFoundError(f"cifar10 needs {path.name} in {path.parent}, found none there")
    return path.read_bytes()


def _read_archive(archive: Path, names: list[str]) -> dict[str, bytes]:
    digest = md5_of(archive)
    if digest != MD5:
        raise ValueError(
            f"{archive} must have the MD5 {MD5}, got {digest}: remove it to get it anew"
        )
    contents = {}
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for name in names:
                member = tar.extractfile(f"{FOLDER}/{name}")
                assert member is not None, "the archive of that MD5 holds files of these names"
                contents[name] = member.read()
    except (tarfile.TarError, KeyError, EOFError, zlib.error) as error:
        raise ValueError(f"{archive} must be CIFAR-10's binary archive: {error}") from error
    return contents


def _download(request: Request) -> Path:
    archive = request.home / ARCHIVE
    try:
        fetch(URL, archive, MD5)
    except (OSError, HTTPException) as error:
        pickled = request.find(*_PICKLES)
        instead = (
            f"{pickled} is the Python version, whose pickles can run any code and are not read: "
            if pickled
            else ""
        )
        raise FileNotFoundError(
            f"cifar10 needs {ARCHIVE} (or {FOLDER}) in {request.home}, found none there, and could "
            f"not be downloaded ({error}): {instead}get {URL} by hand, or try again"
        ) from error
    return archive


register(
    Source(
        name="cifar10",
        help="CIFAR-10, 32x32, the binary version; downloaded where it is not there",
        load=load,
        sizes=((32, 32),),
        channels=(3,),
    )
)
