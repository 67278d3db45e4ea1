"""One process at a time."""

from __future__ import annotations

import errno
import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of a file, or wait for the process that does.

    The system frees it when the process ends, however it ends; the file stays. File systems without
    locks let everybody in, so that what is written there must be renamed into place.

    Args:
        path: The file, made with its folder if need be.

    Raises:
        OSError: If it cannot be made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
        yield


def try_lock(path: Path) -> TextIO | None:
    """Take the lock of a file, which is in a folder that there is; closing it frees the lock.

    Returns:
        The open file; None if another process holds its lock.

    Raises:
        OSError: If it cannot be made or locked.
    """
    file = open(path, "a")  # noqa: SIM115
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    except BaseException:
        file.close()
        raise
    return file
