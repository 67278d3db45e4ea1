"""The archive's file: a header, chunks, an index (docs/format.md)."""

from __future__ import annotations

import hashlib
import io
import json
import struct
import zlib
from dataclasses import dataclass
from typing import Any, BinaryIO

MAGIC = b"\x89VFA\r\n\x1a\n"
VERSION = 2
MAX_TEXT = 64 << 20
"""Bytes of JSON, unpacked, that a header or an index may have."""
MAX_CHUNK = 1 << 31
_PREFIX = struct.Struct("<8sII")
_BLOCK = struct.Struct("<4sQ16s")
_TRAILER = struct.Struct("<QQ16s8s")
HEADER, TILES, CODEC, INDEX = b"HEAD", b"TILE", b"CODE", b"INDX"


@dataclass(frozen=True)
class Entry:
    """Where a chunk is, and what of."""

    kind: str
    offset: int
    bytes: int
    tiles: int = 0

    @property
    def end(self) -> int:
        """The first byte after it."""
        return self.offset + _BLOCK.size + self.bytes


class Writer:
    """Writes an archive, front to back."""

    def __init__(self, file: BinaryIO, header: dict[str, Any]) -> None:
        self._file = file
        self._offset = 0
        self.entries: list[Entry] = []
        self._write(_PREFIX.pack(MAGIC, VERSION, 0))
        self._block(HEADER, _pack(header))

    def add(self, kind: bytes, data: bytes, tiles: int = 0) -> int:
        """Write a chunk; gives its number."""
        offset = self._block(kind, data)
        self.entries.append(Entry(kind.decode(), offset, len(data), tiles))
        return len(self.entries) - 1

    def close(self, index: dict[str, Any]) -> int:
        """Write the index; gives the archive's bytes."""
        chunks = [[e.kind, e.offset, e.bytes, e.tiles] for e in self.entries]
        data = _pack({**index, "chunks": chunks})
        offset = self._block(INDEX, data)
        trailer = struct.pack("<QQ", offset, len(data))
        self._write(_TRAILER.pack(offset, len(data), _digest(trailer), MAGIC))
        return self._offset

    def _block(self, kind: bytes, data: bytes) -> int:
        offset = self._offset
        self._write(_BLOCK.pack(kind, len(data), _digest(kind + data)) + data)
        return offset

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._offset += len(data)


class Reader:
    """Reads an archive: its header and index at once, its chunks when they are asked for.

    Raises:
        ValueError: If it is no archive, of another version, cut short, or its header or index is
            damaged.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.bytes = file.seek(0, io.SEEK_END)
        prefix = self._read(0, min(_PREFIX.size, self.bytes))
        if len(prefix) < _PREFIX.size or not prefix.startswith(MAGIC):
            raise ValueError("it is no vflow archive")
        version = _PREFIX.unpack(prefix)[1]
        if version != VERSION:
            raise ValueError(f"it is an archive of version {version}, this vflow reads {VERSION}")
        if self.bytes < _PREFIX.size + _BLOCK.size + _TRAILER.size:
            raise ValueError("the archive is cut short")
        self.header = _unpack(self._block(HEADER, _PREFIX.size, None), "header")
        trailer = self._read(self.bytes - _TRAILER.size, _TRAILER.size)
        offset, length, digest, magic = _TRAILER.unpack(trailer)
        if magic != MAGIC or digest != _digest(trailer[:16]):
            raise ValueError("the archive is cut short: it does not end as one")
        self.index = _unpack(self._block(INDEX, offset, length), "index")
        self.entries = self._entries()

    def chunk(self, number: int) -> bytes:
        """The bytes of a chunk.

        Raises:
            ValueError: If they are damaged; names it.
        """
        entry = self.entries[number]
        try:
            return self._block(entry.kind.encode(), entry.offset, entry.bytes)
        except ValueError as error:
            raise ValueError(f"chunk {number}: {error}") from error

    def _entries(self) -> list[Entry]:
        entries = []
        chunks = self.index.get("chunks")
        good = isinstance(chunks, list)
        for chunk in chunks if isinstance(chunks, list) else []:
            good = good and isinstance(chunk, list) and len(chunk) == 4
            good = good and chunk[0] in (TILES.decode(), CODEC.decode())
            good = good and all(type(n) is int and 0 <= n < 1 << 62 for n in chunk[1:])
            if not good:
                break
            entries.append(Entry(*chunk))
        if not good:
            raise ValueError("the index has no list of chunks")
        return entries

    def _block(self, kind: bytes, offset: int, length: int | None) -> bytes:
        """The bytes of a block, of a known length if it has one."""
        name = {HEADER: "header", INDEX: "index"}.get(kind, "chunk")
        if not 0 <= offset <= self.bytes - _BLOCK.size:
            raise ValueError(f"the {name} is outside of the archive")
        found, size, digest = _BLOCK.unpack(self._read(offset, _BLOCK.size))
        if found != kind or (length is not None and size != length):
            raise ValueError(f"the {name} is not where it should be")
        if size > min(self.bytes - offset - _BLOCK.size, MAX_CHUNK):
            raise ValueError(f"the {name} is longer than the archive")
        data = self._read(offset + _BLOCK.size, size)
        if _digest(kind + data) != digest:
            raise ValueError(f"the {name} is damaged: its checksum differs")
        return data

    def _read(self, offset: int, length: int) -> bytes:
        self._file.seek(offset)
        data = self._file.read(length)
        if len(data) != length:
            raise ValueError("the archive is cut short")
        return data


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()


def _pack(value: dict[str, Any]) -> bytes:
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return zlib.compress(text.encode("utf-8", "surrogatepass"), 9)


def _unpack(data: bytes, name: str) -> dict[str, Any]:
    try:
        unpacker = zlib.decompressobj()
        text = unpacker.decompress(data, MAX_TEXT)
        if unpacker.unconsumed_tail or not unpacker.eof:
            raise ValueError("too long or cut short")
        value = json.loads(text.decode("utf-8", "surrogatepass"))
    except (zlib.error, ValueError, RecursionError) as error:
        raise ValueError(f"the {name} does not parse: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"the {name} must be a JSON object")
    return value
