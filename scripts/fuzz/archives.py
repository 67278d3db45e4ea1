"""A coverage-guided fuzzer of what reads an archive, in Python (atheris; scripts/fuzz.sh runs it).

What it is given is read as an archive, a chunk or a picture; or it becomes an archive all of whose
checksums are right, some places of its header and index not being so. Each must end well or in a
ValueError.
"""

from __future__ import annotations

import io
import json
import struct
import sys
import zlib
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
import atheris
import numpy as np

with atheris.instrument_imports(include=["vflow.compression", "json"]):
    from vflow.compression import ArchiveReader
    from vflow.compression.chunk import batch_sizes, chunk_info
    from vflow.compression.codec import decode_picture, decode_tiles, encode_picture, encode_tiles
    from vflow.compression.container import CODEC, INDEX, MAGIC, TILES, Writer, _digest
    from vflow.compression.index import read_probe

EXAMPLE = {
    "model": {"digest": "0" * 64, "class": "VFlow", "name": "", "shape": [3, 8, 8]},
    "arithmetic": "exact 2",
}


INDEX_EXAMPLE = {
    "pictures": [
        {"set": "s", "count": 4, "tile": 0, "digests": ["0" * 16]},
        {"name": "a", "size": [8, 9], "mode": "RGB", "digest": "0" * 16, "tile": 4, "alpha": 1},
        {"name": "b", "size": [1, 1], "mode": "L", "digest": "0" * 16, "chunk": 1},
    ],
    "batches": [1, 2],
    "probe": "0" * 64,
}


class Forged(Writer):
    """A writer whose index says what it is told."""

    def __init__(self, file: io.BytesIO, header: object) -> None:
        super().__init__(file, header)  # type: ignore[arg-type]

    def end(self, index: object) -> None:
        """Write the index and what comes after it, all checksums right."""
        data = zlib.compress(json.dumps(index).encode(), 1)
        offset = self._block(INDEX, data)
        tail = offset.to_bytes(8, "little") + len(data).to_bytes(8, "little")
        self._write(tail + _digest(tail) + MAGIC)


def leaf(data: atheris.FuzzedDataProvider) -> object:
    """A value that JSON has."""
    kind = data.ConsumeIntInRange(0, 8)
    if kind < 3:
        return data.ConsumeIntInRange(-2, 10)
    if kind == 3:
        return data.ConsumeInt(9)
    if kind == 4:
        return data.ConsumeFloat()
    if kind == 5:
        return data.ConsumeUnicode(5)
    return [None, True, "native"][kind - 6]


def forge(value: object, data: atheris.FuzzedDataProvider) -> object:
    """The same with another value somewhere, or with something missing or more."""
    if not isinstance(value, dict | list) or not value or data.ConsumeIntInRange(0, 7) == 0:
        if data.ConsumeBool():
            return leaf(data)
        return [leaf(data)] if data.ConsumeBool() else {data.ConsumeUnicode(3): leaf(data)}
    copy = value.copy()
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    key = keys[data.ConsumeIntInRange(0, len(keys) - 1)]
    kind = data.ConsumeIntInRange(0, 7)
    if kind == 0:
        del copy[key]  # type: ignore[arg-type]
    elif kind == 1 and isinstance(copy, list):
        copy.append(copy[key])
    else:
        copy[key] = forge(copy[key], data)  # type: ignore[index,call-overload]
    return copy


def forged(data: atheris.FuzzedDataProvider) -> bytes:
    """An archive, right but for some places of its header and index, and for its chunks."""
    header: object = EXAMPLE
    index: object = INDEX_EXAMPLE
    for _ in range(data.ConsumeIntInRange(0, 2)):
        header = forge(header, data)
    file = io.BytesIO()
    writer = Forged(file, header)
    for kind, tiles in ((TILES, 8), (CODEC, 0)):
        writer.add(kind, data.ConsumeBytes(data.ConsumeIntInRange(0, 300)), tiles)
    chunks = [[e.kind, e.offset, e.bytes, e.tiles] for e in writer.entries]
    index = {**INDEX_EXAMPLE, "chunks": chunks}
    for _ in range(data.ConsumeIntInRange(0, 4)):
        index = forge(index, data)
    writer.end(index)
    return file.getvalue()


def read(archive: bytes) -> None:
    """All that is read of an archive without a model."""
    reader = ArchiveReader(io.BytesIO(archive))
    for _, info in reader.infos():
        if not isinstance(info, ValueError):
            batch_sizes(min(info.tiles - info.first_tiles, 4096), info.batch, info.growth)
    if reader.header["arithmetic"] == "native":
        read_probe(reader._container.index)


def one(bytes_: bytes) -> None:
    """One input: its first byte says what the others are."""
    kind, rest = bytes_[0] % 5 if bytes_ else 0, bytes_[1:]
    try:
        if kind == 0:
            read(rest)
        elif kind == 1:
            chunk_info(rest)
        elif kind == 2:
            decode_picture(rest[2:], (*(1 + n % 16 for n in rest[:2]), 3))
        elif kind == 3:
            decode_tiles(rest[1:], (1 + sum(rest[:1]) % 8, 4, 4, 3))
        else:
            read(forged(atheris.FuzzedDataProvider(rest)))
    except ValueError:
        pass


def seeds(folder: Path) -> None:
    """What is right, of each kind, to begin from."""
    pixels = np.arange(4 * 4 * 4 * 3, dtype=np.uint8).reshape(4, 4, 4, 3)
    file = io.BytesIO()
    writer = Forged(file, EXAMPLE)
    writer.add(TILES, bytes(200), 8)
    writer.add(CODEC, encode_picture(pixels[0]))
    writer.end(
        {**INDEX_EXAMPLE, "chunks": [[e.kind, e.offset, e.bytes, e.tiles] for e in writer.entries]}
    )
    chunk = (
        struct.pack("<IIIII16s", 9, 2, 4, 3, 0, bytes(16)) + struct.pack("<QII", 1 << 32, 0, 0) * 8
    )
    inputs = {0: file.getvalue(), 1: chunk, 2: b"\3\3" + encode_picture(pixels[0]), 4: bytes(500)}
    inputs[3] = b"\3" + encode_tiles(pixels)
    folder.mkdir(parents=True, exist_ok=True)
    for kind, data in inputs.items():
        (folder / f"seed-{kind}").write_bytes(bytes([kind]) + data)


if __name__ == "__main__":
    if len(sys.argv) > 1 and not sys.argv[1].startswith("-"):
        seeds(Path(sys.argv[1]))
    atheris.Setup(sys.argv, one)
    atheris.Fuzz()
