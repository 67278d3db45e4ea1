"""A chunk: some tiles on one set of stacks, which decodes alone.

The stacks begin as the chunk's first tiles, written by an ordinary codec: the bits that the first
batch has to pop before anything has been pushed. Those that are lacking are lent.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from vflow.compression.codec import decode_tiles, encode_tiles
from vflow.compression.walk import decode_batch, encode_batch
from vflow.models import ImageFlow
from vflow.ops.coder import LANES, LEAST_STATE, START_STATE, Coder, Lane

DIGEST_BYTES = 16
MAX_BATCH = 256
"""Tiles on the stacks at once: a bound on what a forged chunk can ask for."""
MAX_GROWTH = 1 << 16
SPARE = 1.25
"""More tiles than a batch needs by the first tile's measure before it may grow: tiles differ."""
_HEAD = struct.Struct(f"<IIIII{DIGEST_BYTES}s")
_LANE = struct.Struct("<QII")

Progress = Callable[[int], None]


@dataclass(frozen=True)
class ChunkInfo:
    """What a chunk says of itself."""

    tiles: int
    first_tiles: int
    """Tiles by an ordinary codec."""
    batch: int
    """Most tiles on the stacks at once."""
    growth: int
    """Tiles that must be on the stacks for each that is put there at once beyond one."""
    first_bytes: int
    """Bytes that those take: what the stacks began with."""
    lent_bytes: int
    """Bytes that the stacks were lent beside."""
    bytes: int
    """Of the whole chunk."""


def encode_chunk(
    model: ImageFlow, tiles: NDArray[np.uint8], batch: int, progress: Progress | None = None
) -> bytes:
    """Encode tiles.

    Args:
        model: The model, within its `arithmetic`.
        tiles: [N, H, W, C] of the model's shape.
        batch: Most tiles on the stacks at once: more are faster. The first come one at a time,
            and more as there are bits enough on the stacks for their noise.
        progress: Called with the number of tiles that are done, after each batch.

    Raises:
        ValueError: If the model cannot code them.
    """
    images = torch.from_numpy(np.ascontiguousarray(tiles.transpose(0, 3, 1, 2)))
    first, blob, growth = _first_tiles(model, tiles, images)
    coder = Coder(_lanes_of(blob), lend=True)
    if progress:
        progress(first)
    start = first
    for size in batch_sizes(len(images) - first, batch, growth):
        _encode(model, images[start : start + size], coder)
        start += size
        if progress:
            progress(size)
    lanes, lent = coder.lanes, coder.lent_words
    head = _HEAD.pack(len(tiles), first, batch, growth, len(blob), _digest(tiles))
    table = b"".join(
        _LANE.pack(lane.state, len(lane.words), count)
        for lane, count in zip(lanes, lent.tolist(), strict=True)
    )
    return head + table + b"".join(lane.words.astype("<u4").tobytes() for lane in lanes)


def decode_chunk(
    model: ImageFlow, data: bytes, count: int, progress: Progress | None = None
) -> NDArray[np.uint8]:
    """Decode a chunk of `count` tiles, [count, H, W, C].

    Raises:
        ValueError: If it is damaged, of another model, or of another number of tiles.
    """
    info, lanes, digest = _parse(data)
    if info.tiles != count:
        raise ValueError(f"it holds {info.tiles} tiles where the index has {count}")
    channels, height, width = model.data_shape
    coder = Coder(lanes, lend=False)
    parts: list[NDArray[np.uint8]] = []
    for size in reversed(batch_sizes(info.tiles - info.first_tiles, info.batch, info.growth)):
        parts.append(decode_batch(model, size, coder).permute(0, 2, 3, 1).numpy())
        if progress:
            progress(size)
    blob = _blob_of(coder.lanes, _lent_counts(data), info.first_bytes)
    if info.first_tiles:
        shape = (info.first_tiles, height, width, channels)
        parts.append(decode_tiles(blob, shape))
        if progress:
            progress(info.first_tiles)
    tiles = (
        np.concatenate(parts[::-1]) if parts else np.empty((0, height, width, channels), np.uint8)
    )
    if _digest(tiles) != digest:
        raise ValueError("its pixels are not those that were compressed")
    return tiles


def chunk_info(data: bytes) -> ChunkInfo:
    """What a chunk says of itself.

    Raises:
        ValueError: If it is no whole chunk.
    """
    return _parse(data)[0]


def _encode(model: ImageFlow, images: torch.Tensor, coder: Coder) -> None:
    try:
        encode_batch(model, images, coder)
    except ValueError as error:
        which = "a tile" if len(images) == 1 else f"one of {len(images)} tiles"
        raise ValueError(
            f"the model cannot code {which}, too far from what it was trained on: {error}"
        ) from error


def batch_sizes(tiles: int, most: int, growth: int) -> list[int]:
    """The batches that tiles are put on the stacks in, docs/format.md: powers of two.

    What a batch pops before it pushes anything must be there already: so it may be as large as
    1 and one more for each `growth` tiles that are on the stacks.
    """
    sizes, done = [], 0
    while done < tiles:
        least = min(most, 1 + done // growth, tiles - done)
        sizes.append(1 << (least.bit_length() - 1))
        done += sizes[-1]
    return sizes


def _first_tiles(
    model: ImageFlow, tiles: NDArray[np.uint8], images: torch.Tensor
) -> tuple[int, bytes, int]:
    """How many tiles the stacks begin with, as few as spare being lent any; their bytes; growth."""
    trial = Coder(lend=True)
    before = trial.bits
    _encode(model, images[:1], trial)
    needed = 4 * int(trial.lent_words.max()) * LANES
    left = max(1.0, (trial.bits - before) / 8)
    growth = max(1, min(MAX_GROWTH, math.ceil(SPARE * needed / left)))
    low, high = 0, 1
    while high < len(tiles) and len(encode_tiles(tiles[:high])) < needed:
        low, high = high, 2 * high
    high = min(high, len(tiles))
    while high - low > 1:
        middle = (low + high) // 2
        enough = len(encode_tiles(tiles[:middle])) >= needed
        low, high = (low, middle) if enough else (middle, high)
    return high, encode_tiles(tiles[:high]), growth


def _lanes_of(blob: bytes) -> list[Lane]:
    """Bytes as stacks of words, as many on each."""
    size = 4 * LANES
    padded = blob + bytes(-len(blob) % size)
    words = np.frombuffer(padded, "<u4").astype(np.uint32).reshape(LANES, -1)
    return [Lane(START_STATE, row) for row in words]


def _blob_of(lanes: list[Lane], lent: list[int], size: int) -> bytes:
    """The bytes that the stacks began with, after all has been undone.

    Raises:
        ValueError: If the stacks are not as they began.
    """
    words = -(-size // (4 * LANES))
    rows = []
    for number, (lane, count) in enumerate(zip(lanes, lent, strict=True)):
        if lane.state != START_STATE or len(lane.words) != count + words:
            raise ValueError("its stacks do not come back to what they began as")
        if not np.array_equal(lane.words[:count][::-1], _lent_words(number, count)):
            raise ValueError("the bits that it was lent do not come back")
        rows.append(lane.words[count:])
    blob = np.concatenate(rows).astype("<u4").tobytes()
    if any(blob[size:]):
        raise ValueError("its stacks do not come back to what they began as")
    return blob[:size]


def _lent_words(lane: int, count: int) -> NDArray[np.uint32]:
    """The fixed sequence that a stack is lent (csrc/common/bit_stack.h)."""
    z = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    z += np.uint64(lane << 40)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((z ^ (z >> np.uint64(31))) >> np.uint64(32)).astype(np.uint32)


def _lent_counts(data: bytes) -> list[int]:
    return [_LANE.unpack_from(data, _HEAD.size + i * _LANE.size)[2] for i in range(LANES)]


def _parse(data: bytes) -> tuple[ChunkInfo, list[Lane], bytes]:
    start = _HEAD.size + LANES * _LANE.size
    if len(data) < start:
        raise ValueError("it is cut short")
    tiles, first, batch, growth, blob_bytes, digest = _HEAD.unpack_from(data)
    table = [_LANE.unpack_from(data, _HEAD.size + i * _LANE.size) for i in range(LANES)]
    if start + 4 * sum(words for _, words, _ in table) != len(data):
        raise ValueError("the lengths of its stacks do not sum to its own")
    if (
        not 1 <= batch <= MAX_BATCH
        or not 1 <= growth <= MAX_GROWTH
        or first > tiles
        or any(state < LEAST_STATE for state, _, _ in table)
    ):
        raise ValueError("its numbers cannot be")
    lanes = []
    for state, words, _ in table:
        numbers = np.frombuffer(data, "<u4", words, start).astype(np.uint32)
        lanes.append(Lane(state, numbers))
        start += 4 * words
    lent_bytes = 4 * sum(count for _, _, count in table)
    info = ChunkInfo(tiles, first, batch, growth, blob_bytes, lent_bytes, len(data))
    return info, lanes, digest


def _digest(tiles: NDArray[np.uint8]) -> bytes:
    return hashlib.blake2b(np.ascontiguousarray(tiles).data, digest_size=DIGEST_BYTES).digest()
