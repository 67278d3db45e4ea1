"""Memory that was freed and will be asked for again.

The C library gives large blocks back to the system as soon as they are freed, and the system hands
them out again page by page, each cleared: for networks that make and drop a few megabytes an
operation, a tenth of the time.
"""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt, malloc.h
KEPT_BLOCK = 32 << 20
"""Bytes of a block that is kept; glibc takes no more."""
KEPT = 1 << 30
"""Bytes that may lie unused before some go back."""


def keep_freed_memory() -> bool:
    """Have this process keep what it frees; whether its C library does so."""
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_MMAP_THRESHOLD, KEPT_BLOCK) and mallopt(_TRIM_THRESHOLD, KEPT))
