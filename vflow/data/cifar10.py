"""CIFAR-10 from its official binary version, which needs no pickle."""

from __future__ import annotations

import hashlib
import tarfile
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vflow.data.request import Request
from vflow.files import atomic_path

URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
ARCHIVE = "cifar-10-binary.tar.gz"
MD5 = "c32a1d4ab5d03f1284b67883e8d87530"
FOLDER = "cifar-10-batches-bin"
FILES = {"train": [f"data_batch_{i}.bin" for i in range(1, 6)], "test": ["test_batch.bin"]}
IMAGES_PER_FILE = 10_000
_PIXELS = 3 * 32 * 32


def load(request: Request) -> NDArray[np.uint8]:
    """CIFAR-10 (Krizhevsky, 2009): 50,000 training and 10,000 test images.

    Looked for in root/cifar10 and in root: the folder cifar-10-batches-bin, or the archive
    cifar-10-binary.tar.gz, whose MD5 is checked and which is read as it is. Where there is neither,
    torchvision downloads the archive to root/cifar10.

    Returns:
        uint8 [N, 3, 32, 32].
    """
    request.require_size(32)
    folder = request.find(FOLDER)
    if folder is not None:
        return _stack(request, {name: _read_file(folder / name) for name in FILES[request.split]})
    archive = request.find(ARCHIVE) or _download(request)
    return _stack(request, _read_archive(archive, FILES[request.split]))


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
    digest = hashlib.md5(archive.read_bytes(), usedforsecurity=False).hexdigest()
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
    folder = request.root / "cifar10"
    by_hand = f"or download {URL} by hand to {folder}"
    try:
        # Imported here: where torchvision does not fit the installed torch, importing it raises a
        # RuntimeError, and nothing else needs it.
        from torchvision.datasets.utils import download_url
    except (ImportError, RuntimeError) as error:
        raise FileNotFoundError(
            f"cifar10 needs {FOLDER} or {ARCHIVE} in {folder}, found neither, and torchvision, "
            f"which would download it, does not import ({error}): install a torchvision that "
            f"fits your torch, {by_hand}"
        ) from error
    archive = folder / ARCHIVE
    try:
        with atomic_path(archive) as temporary:
            download_url(URL, str(temporary.parent), temporary.name, MD5)
    except (OSError, RuntimeError) as error:
        raise OSError(f"cifar10 could not be downloaded ({error}): try again, {by_hand}") from error
    return archive
