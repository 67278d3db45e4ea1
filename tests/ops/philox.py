"""Philox4x32-10 and the mask of dropout in Python's own integers, written down a second time."""

from __future__ import annotations

import torch
from torch import Tensor

# Counter, key and words, of Random123's kat_vectors.
KNOWN_ANSWERS = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    (
        (0xFFFFFFFF,) * 4,
        (0xFFFFFFFF,) * 2,
        (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
    ),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


def philox(counter: tuple[int, ...], key: tuple[int, ...]) -> tuple[int, ...]:
    """Four words."""
    (a, b, c, d), (left, right) = counter, key
    for _ in range(10):
        high_a, low_a = divmod(a * 0xD2511F53, 1 << 32)
        high_c, low_c = divmod(c * 0xCD9E8D57, 1 << 32)
        a, b, c, d = high_c ^ b ^ left, low_c, high_a ^ d ^ right, low_a
        left, right = (left + 0x9E3779B9) % (1 << 32), (right + 0xBB67AE85) % (1 << 32)
    return a, b, c, d


def kept(rows: int, channels: int, seed: tuple[int, ...], dropout: float) -> Tensor:
    """Which elements of [rows, channels] dropout keeps."""
    threshold = int(dropout * 2**32)

    def keeps(row: int, channel: int) -> bool:
        index = row // 4 * channels + channel
        words = philox((index % (1 << 32), index >> 32, 0, 0), seed)
        return words[row % 4] >= threshold

    return torch.tensor([[keeps(r, c) for c in range(channels)] for r in range(rows)])
