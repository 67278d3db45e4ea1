"""Reading an archive: what it says without a model, and its pictures with one."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from vflow.compression import container
from vflow.compression.chunk import ChunkInfo, Progress, chunk_info, decode_chunk
from vflow.compression.codable import require_codable
from vflow.compression.codec import decode_picture
from vflow.compression.identity import arithmetic, model_digest, probe, require_readable
from vflow.compression.index import read_entries, read_probe, read_shape
from vflow.compression.pictures import Picture, from_tiles, grid_of, part_digest
from vflow.models import ImageFlow


class ArchiveReader:
    """Reads an archive.

    Args:
        file: A binary file that can be sought in.
        model: The model it was written with; without one the archive can be listed.
        progress: Called with the number of tiles that are done.

    Raises:
        ValueError: If it is no archive, damaged where nothing can be read, of another model, or of
            another machine's or version's arithmetic.
    """

    def __init__(
        self, file: BinaryIO, model: ImageFlow | None = None, progress: Progress | None = None
    ) -> None:
        self._container = container.Reader(file)
        self._progress = progress
        self.header, self.bytes = self._container.header, self._container.bytes
        chunks = self._container.entries
        self.shape = read_shape(self.header)
        self.entries = read_entries(self._container.index, chunks, self.shape)
        self._chunks = [
            i for i, chunk in enumerate(chunks) if chunk.kind == container.TILES.decode()
        ]
        self._ends = list(itertools.accumulate(chunks[i].tiles for i in self._chunks))
        self._cached: tuple[int, NDArray[np.uint8]] | None = None
        self._model = model
        if model is not None:
            self._require(model)

    @property
    def tiles(self) -> int:
        """Tiles of all chunks."""
        return self._ends[-1] if self._ends else 0

    def infos(self) -> Iterator[tuple[int, ChunkInfo | ValueError]]:
        """The chunks of tiles: each one's number, and what it says of itself or what is wrong."""
        for number in self._chunks:
            try:
                yield number, chunk_info(self._container.chunk(number))
            except ValueError as error:
                yield number, error

    def pictures(self) -> Iterator[Picture | ValueError]:
        """Decode all pictures in order; in the place of one that is lost, what is wrong."""
        for entry in self.entries:
            try:
                if "set" in entry:
                    yield from self._set(entry)
                else:
                    yield self._picture(entry)
            except ValueError as error:
                yield error

    def images(self) -> NDArray[np.uint8]:
        """Decode an archive of image sets, [N, H, W, C].

        Raises:
            ValueError: If it is damaged, or holds pictures of their own sizes.
        """
        if not self.entries or any("set" not in entry for entry in self.entries):
            raise ValueError("the archive holds pictures of their own sizes, not image sets")
        found = []
        for entry in self.entries:
            for picture in self._set(entry):
                if isinstance(picture, ValueError):
                    raise picture
                found.append(picture.pixels)
        return np.stack(found)

    def _set(self, entry: dict[str, Any]) -> Iterator[Picture | ValueError]:
        first, end = entry["tile"], entry["tile"] + entry["count"]
        digits, digests = len(str(entry["count"] - 1)), iter(entry["digests"])
        # One chunk after another: a set may be larger than memory, and one of them damaged.
        while first < end:
            count = min(end - first, self._left_in_chunk(first))
            number, digest = first - entry["tile"], next(digests, "")
            try:
                tiles = self._tiles(first, count)
                if part_digest(tiles) != digest:
                    raise ValueError("they are not what was compressed")
            except ValueError as error:
                yield ValueError(f"images {number} to {number + count - 1} are lost: {error}")
            else:
                for tile in tiles:
                    yield Picture(f"{number:0{digits}}.png", tile)
                    number += 1
            first += count

    def _picture(self, entry: dict[str, Any]) -> Picture:
        name, (height, width) = entry["name"], entry["size"]
        colours = 1 if entry["mode"] == "L" else 3
        try:
            if "chunk" in entry:
                pixels = decode_picture(
                    self._container.chunk(entry["chunk"]), (height, width, colours)
                )
            else:
                tile_height, tile_width = self.shape[1:]
                rows, columns = grid_of(height, width, tile_height, tile_width)
                pixels = from_tiles(self._tiles(entry["tile"], rows * columns), height, width)
                pixels = np.ascontiguousarray(pixels[..., :colours])
            alpha = None
            if "alpha" in entry:
                data = self._container.chunk(entry["alpha"])
                alpha = decode_picture(data, (height, width, 1))[..., 0]
        except ValueError as error:
            raise ValueError(f"{name} is lost: {error}") from error
        picture = Picture(name, pixels, alpha)
        if picture.digest() != entry["digest"]:
            raise ValueError(f"{name} is lost: it is not what was compressed")
        return picture

    def _left_in_chunk(self, tile: int) -> int:
        return self._ends[bisect.bisect_right(self._ends, tile)] - tile

    def _tiles(self, first: int, count: int) -> NDArray[np.uint8]:
        parts = []
        while count:
            position = bisect.bisect_right(self._ends, first)
            tiles = self._chunk(position)
            offset = first - (self._ends[position] - len(tiles))
            part = tiles[offset : offset + count]
            parts.append(part)
            first, count = first + len(part), count - len(part)
        return np.concatenate(parts)

    def _chunk(self, position: int) -> NDArray[np.uint8]:
        if self._cached is not None and self._cached[0] == position:
            return self._cached[1]
        assert self._model is not None
        number = self._chunks[position]
        count = self._container.entries[number].tiles
        data = self._container.chunk(number)
        try:
            with arithmetic(self._model, require_readable(self.header["arithmetic"])):
                tiles = decode_chunk(self._model, data, count, self._progress)
        except ValueError as error:
            raise ValueError(f"chunk {number}: {error}") from error
        self._cached = position, tiles
        return tiles

    def _require(self, model: ImageFlow) -> None:
        about, name = self.header["model"], require_readable(self.header["arithmetic"])
        require_codable(model, name)
        found = model_digest(model)
        if found != about["digest"]:
            called = f" ({about['name']})" if about.get("name") else ""
            raise ValueError(
                f"the archive needs the {about.get('class')} of digest {about['digest'][:16]}"
                f"{called}, got one of {found[:16]}"
            )
        if name == "native":
            batches, expected = read_probe(self._container.index)
            with arithmetic(model, name):
                here = probe(model, batches)
            if here != expected:
                raise ValueError(
                    "the archive is in the native arithmetic of another machine, library or number "
                    "of threads, and cannot be decoded here"
                )
