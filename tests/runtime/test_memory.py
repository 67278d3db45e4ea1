"""Freed memory is kept where the C library can."""

from __future__ import annotations

import ctypes
import resource
import sys

import pytest

from vflow.runtime.memory import keep_freed_memory

BYTES = 8 << 20


def faults() -> int:
    """Page faults of writing to blocks, four at once, that have just been freed."""
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
    libc.malloc.argtypes = [ctypes.c_size_t]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        blocks = [libc.malloc(BYTES) for _ in range(4)]
        for block in blocks:
            ctypes.memset(block, 1, BYTES)
        for block in blocks:
            libc.free(block)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="of Linux's C library")
def test_freed_blocks_are_used_again():
    if not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"):
        assert not keep_freed_memory()
        return
    assert keep_freed_memory()
    faults()  # at first they come page by page
    assert faults() < BYTES // 4096
