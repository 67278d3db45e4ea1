"""What an archive's header and index say, checked: both may come from anybody."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

from vflow.compression.chunk import MAX_BATCH
from vflow.compression.container import CODEC, TILES, Entry
from vflow.compression.pictures import grid_of

MODES = {1: "L", 3: "RGB"}
"""How a picture of so many channels, alpha left out, is called."""
MAX_CHUNK_TILES = 65536
MAX_CHUNK_VALUES = 1 << 28
"""Values of all tiles of a chunk, which are in memory at once."""
MAX_PICTURE_VALUES = 1 << 32
MAX_PROBES = 16


def read_shape(header: dict[str, Any]) -> tuple[int, int, int]:
    """The shape [C, H, W] of the model's images.

    Raises:
        ValueError: If the header does not say what model and what arithmetic it was.
    """
    model = header.get("model")
    shape = model.get("shape") if isinstance(model, dict) else None
    if not isinstance(shape, list) or len(shape) != 3 or not isinstance(model, dict):
        raise ValueError("the header does not say the model's shape")
    if not all(_is_whole(n, 1, 1 << 16) for n in shape) or math.prod(shape) > MAX_CHUNK_VALUES:
        raise ValueError("the header's shape cannot be")
    if not isinstance(model.get("digest"), str):
        raise ValueError("the header does not say the model's digest")
    stored = header.get("arithmetic")
    if not isinstance(stored, str) or not re.fullmatch(r"native|exact( [1-9][0-9]{0,5})?", stored):
        raise ValueError(f"the header's arithmetic is {stored!r}")
    return shape[0], shape[1], shape[2]


def read_probe(index: dict[str, Any]) -> tuple[set[int], str]:
    """Of an archive of native arithmetic, the batches and the digest of its probe.

    Raises:
        ValueError: If the index has none.
    """
    batches, digest = index.get("batches"), index.get("probe")
    good = isinstance(batches, list) and len(batches) <= MAX_PROBES and isinstance(digest, str)
    if not good or not all(_is_whole(n, 1, MAX_BATCH + 1) for n in batches or []):
        raise ValueError("the index has no probe of its arithmetic")
    return set(batches or []), str(digest)


def read_entries(
    index: dict[str, Any], chunks: Sequence[Entry], shape: tuple[int, int, int]
) -> list[dict[str, Any]]:
    """The pictures and image sets, each of tiles or chunks that are there.

    Raises:
        ValueError: If the index does not say them, or says what cannot be.
    """
    entries = index.get("pictures")
    if not isinstance(entries, list):
        raise ValueError("the index does not say the pictures")
    limit = min(MAX_CHUNK_TILES, MAX_CHUNK_VALUES // math.prod(shape))
    counts = [chunk.tiles for chunk in chunks if chunk.kind == TILES.decode()]
    if not all(1 <= count <= limit for count in counts):
        raise ValueError("the index has a chunk of too many tiles, or of none")
    for number, entry in enumerate(entries):
        if not isinstance(entry, dict) or not _is_good(entry, chunks, shape, sum(counts)):
            raise ValueError(f"the index says what cannot be of picture {number}")
    return entries


def _is_good(
    entry: dict[str, Any], chunks: Sequence[Entry], shape: tuple[int, int, int], tiles: int
) -> bool:
    if "set" in entry:
        count, digests = entry.get("count"), entry.get("digests")
        if not isinstance(digests, list) or not all(isinstance(d, str) for d in digests):
            return False
        good = isinstance(entry["set"], str) and _is_whole(count, 1, tiles + 1)
        return good and _is_whole(entry.get("tile"), 0, tiles - int(count or 0) + 1)
    if not isinstance(entry.get("digest"), str):
        return False
    size = entry.get("size")
    if not isinstance(size, list) or len(size) != 2 or not isinstance(entry.get("name"), str):
        return False
    if not all(_is_whole(n, 1, 1 << 31) for n in size) or entry.get("mode") not in MODES.values():
        return False
    if 4 * math.prod(size) > MAX_PICTURE_VALUES:
        return False
    for number in [entry[name] for name in ("chunk", "alpha") if name in entry]:
        if not _is_whole(number, 0, len(chunks)) or chunks[number].kind != CODEC.decode():
            return False
    if "chunk" in entry:
        return "tile" not in entry
    rows, columns = grid_of(size[0], size[1], shape[1], shape[2])
    return _is_whole(entry.get("tile"), 0, tiles - rows * columns + 1)


def _is_whole(value: Any, least: int, end: int) -> bool:
    return type(value) is int and least <= value < end
