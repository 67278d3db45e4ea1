"""A coverage-guided fuzzer of what reads an archive, in Python (atheris; scripts/fuzz.sh runs it).

What it is given becomes an archive, in one of two ways: as it is; or as the texts of its header and
index and a chunk of tiles, around which every checksum is put right. Reading either must end
well or in a ValueError.
"""

from __future__ import annotations

import io
import json
import sys
import zlib
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
import atheris

with atheris.instrument_imports(include=["vflow.compression", "json"]):
    from vflow.compression import ArchiveReader
    from vflow.compression.chunk import batch_sizes, chunk_info
    from vflow.compression.codec import decode_picture, decode_tiles
    from vflow.compression.container import CODEC, HEADER, INDEX, TILES, Writer, _digest
    from vflow.compression.index import read_probe

EXAMPLE = {
    "model": {"digest": "0" * 64, "class": "VFlow", "name": "", "shape": [3, 8, 8]},
    "arithmetic": "exact",
}


class Forged(Writer):
    """A writer whose header and index are any bytes."""

    def __init__(self, file: io.BytesIO, header: bytes, index: bytes) -> None:
        self._text = header
        super().__init__(file, EXAMPLE)
        self._text = index

    def _block(self, kind: bytes, data: bytes) -> int:
        text = zlib.compress(self._text, 1) if kind in (HEADER, INDEX) else data
        return super()._block(kind, text)

    def end(self) -> None:
        """Write the index and what comes after it."""
        offset = self._block(INDEX, b"")
        length = len(zlib.compress(self._text, 1))
        tail = offset.to_bytes(8, "little") + length.to_bytes(8, "little")
        self._write(tail + _digest(tail) + b"\x89VFA\r\n\x1a\n")


def forged(data: atheris.FuzzedDataProvider) -> bytes:
    """An archive whose texts are the fuzzer's, or begin as one's that is right."""
    texts = []
    for example in (EXAMPLE, {"pictures": [], "chunks": []}):
        text = data.ConsumeBytes(data.ConsumeIntInRange(0, 600))
        texts.append(text if data.ConsumeBool() else json.dumps(example).encode()[:-1] + text)
    file = io.BytesIO()
    writer = Forged(file, *texts)
    writer.add(TILES if data.ConsumeBool() else CODEC, data.ConsumeBytes(400), 1)
    writer.end()
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
    """One input."""
    data = atheris.FuzzedDataProvider(bytes_)
    kind = data.ConsumeIntInRange(0, 4)
    try:
        if kind == 0:
            read(data.ConsumeBytes(len(bytes_)))
        elif kind == 1:
            chunk_info(data.ConsumeBytes(len(bytes_)))
        elif kind == 2:
            shape = tuple(data.ConsumeIntInRange(1, 40) for _ in range(3))
            decode_picture(data.ConsumeBytes(len(bytes_)), shape)
        elif kind == 3:
            shape = tuple(data.ConsumeIntInRange(1, 9) for _ in range(4))
            decode_tiles(data.ConsumeBytes(len(bytes_)), shape)
        else:
            read(forged(data))
    except ValueError:
        pass


if __name__ == "__main__":
    atheris.Setup(sys.argv, one)
    atheris.Fuzz()
