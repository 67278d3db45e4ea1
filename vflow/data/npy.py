"""Headers of .npy files and of the arrays in .npz files, read without the arrays and unpickled."""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

UNREADABLE = (ValueError, KeyError, EOFError, OSError, zipfile.BadZipFile, zlib.error)
"""What NumPy and zipfile raise for damaged files."""


@dataclass(frozen=True)
class Header:
    """What the header of an array says.

    Args:
        shape: The array's.
        fortran: Whether its first index runs fastest.
        dtype: The array's.
        offset: Bytes before its first element.
    """

    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype[np.generic]
    offset: int


def read_header(file: IO[bytes]) -> Header:
    """Read the header that a file of the .npy format begins with.

    Raises:
        ValueError: If it has none.
    """
    version = np.lib.format.read_magic(file)
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in readers:
        raise ValueError(f"its format is version {version}, which is for named fields")
    shape, fortran, dtype = readers[version](file)
    return Header(shape, fortran, dtype, file.tell())


def read_headers(path: Path) -> dict[str, Header]:
    """The headers of the arrays in an .npz file, by their names.

    Raises:
        One of UNREADABLE: If it is damaged or no such file.
    """
    headers = {}
    with zipfile.ZipFile(path) as archive:
        for member in archive.namelist():
            if member.endswith(".npy"):
                with archive.open(member) as file:
                    headers[member.removesuffix(".npy")] = read_header(file)
    return headers
