"""Arrays of .npy files that stay on the disk and come into memory page by page."""

from __future__ import annotations

import math
import mmap
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

# Unreserved, or Linux refuses a private mapping larger than memory. Python names it from 3.13 on.
_NORESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000 if sys.platform == "linux" else 0)


def map_array(
    path: Path, shape: tuple[int, ...], dtype: np.dtype[np.generic], fortran: bool, offset: int
) -> NDArray[np.generic]:
    """Map the array of an uncompressed file.

    What is written to it stays in this process's memory and never reaches the file.

    Args:
        path: The file.
        shape: The array's.
        dtype: The array's.
        fortran: Whether its first index runs fastest.
        offset: Bytes before the first element.

    Raises:
        ValueError: If the file is shorter than that.
        OSError: If it cannot be read or mapped.
    """
    needed = offset + dtype.itemsize * math.prod(shape)
    with open(path, "rb") as file:
        size = file.seek(0, 2)
        if size < needed:
            raise ValueError(f"it has {size} bytes of {needed}")
        pages = mmap.mmap(
            file.fileno(),
            needed,
            flags=mmap.MAP_PRIVATE | _NORESERVE,
            prot=mmap.PROT_READ | mmap.PROT_WRITE,
        )
    return np.ndarray(shape, dtype, pages, offset, order="F" if fortran else "C")


def is_mapped(array: NDArray[np.generic]) -> bool:
    """Whether an array is one of `map_array`'s, or a view of one."""
    base: object = array
    while isinstance(base, np.ndarray):
        base = base.base
    return isinstance(base, mmap.mmap)
