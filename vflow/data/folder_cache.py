"""The decoded images of a folder, kept on the disk for the next time."""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from vflow.data.mapped import map_array
from vflow.data.npy import UNREADABLE, read_header
from vflow.data.spec import expand
from vflow.runtime.files import atomic_path, read_json, write_json
from vflow.runtime.locks import locked

Notes = dict[str, list[str]]
Rows = Callable[[Notes], Iterator[NDArray[np.uint8]]]


def cache_root() -> Path | None:
    """Where decoded folders are kept: $VFLOW_CACHE, or else ~/.cache/vflow; None for "off"."""
    text = os.environ.get("VFLOW_CACHE") or "~/.cache/vflow"
    return None if text == "off" else expand(text) / "folders"


def cached(
    root: Path, identity: Any, content: Any, shape: tuple[int, ...], rows: Rows
) -> tuple[NDArray[np.uint8], Notes]:
    """The images kept for a folder, made if there are none or the folder has changed.

    Several processes may ask at once: one makes them and the others wait for it.

    Args:
        root: The cache.
        identity: What they are of, as JSON; one version of it is kept.
        content: All that they depend on, as JSON.
        shape: An array that can hold them, [N, C, H, W]; there may be fewer.
        rows: Makes them, one by one, and writes into the notes what is to be said of them.

    Returns:
        uint8 [N', C, H, W], mapped, and the notes.

    Raises:
        OSError: If the cache cannot be written.
    """
    home = root / _digest(identity)
    key = _digest(content)
    array_path, notes_path = home / f"{key}.npy", home / f"{key}.json"
    with locked(home / ".lock"):
        kept = _read(array_path, notes_path)
        if kept is not None:
            return kept
        for path in home.iterdir():  # of a folder that has changed, or of a process that was killed
            if path.name != ".lock":
                path.unlink()
        notes: Notes = {}
        try:
            with atomic_path(array_path) as temporary, open(temporary, "wb") as file:
                _write(file, shape, rows(notes))
            write_json(notes_path, notes)
        except OSError as error:
            raise OSError(
                error.errno,
                f"cannot keep decoded images ({error.strerror}; another place: VFLOW_CACHE=FOLDER, "
                "none: VFLOW_CACHE=off)",
                str(array_path),
            ) from error
        kept = _read(array_path, notes_path)
        assert kept is not None, "it has just been written"
        return kept


def _read(array_path: Path, notes_path: Path) -> tuple[NDArray[np.uint8], Notes] | None:
    try:
        notes = read_json(notes_path)
        with open(array_path, "rb") as file:
            header = read_header(file)
        if header.dtype != np.uint8 or len(header.shape) != 4:
            return None
        # No images is for the caller to judge, and cannot be mapped.
        if 0 in header.shape:
            return np.empty(header.shape, np.uint8), notes
        array = map_array(array_path, header.shape, header.dtype, header.fortran, header.offset)
        return array.view(np.uint8), notes
    except UNREADABLE:
        return None


def _write(file: IO[bytes], shape: tuple[int, ...], rows: Iterator[NDArray[np.uint8]]) -> None:
    """Write rows as one array, whose number is known at the end only."""
    file.write(_header(shape))
    count = 0
    for row in rows:
        file.write(np.ascontiguousarray(row).data)
        count += 1
    file.seek(0)
    file.write(_header((count, *shape[1:])))


def _header(shape: tuple[int, ...]) -> bytes:
    # NumPy leaves room in a header for the first number to grow, so that all are of one length.
    file = io.BytesIO()
    fields = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, fields)
    return file.getvalue()


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:32]
