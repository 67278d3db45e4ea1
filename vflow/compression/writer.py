"""Writing an archive: pictures and image sets in, chunks out, with a model."""

from __future__ import annotations

import itertools
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from vflow.compression import container
from vflow.compression.chunk import MAX_BATCH, Progress, batch_sizes, chunk_info, encode_chunk
from vflow.compression.codable import require_codable
from vflow.compression.codec import encode_picture
from vflow.compression.identity import arithmetic, model_digest, probe, stored_arithmetic
from vflow.compression.index import MAX_CHUNK_TILES, MODES
from vflow.compression.pictures import Picture, grid_of, part_digest, to_tiles
from vflow.models import ImageFlow

CHUNK_TILES = 8192
"""Tiles of a chunk, unless one asks for another number."""
MOST_AT_ONCE = 64
"""Tiles on the stacks at once, unless one asks for another number."""


class ArchiveWriter:
    """Writes an archive, chunk by chunk.

    Args:
        file: Where to, a binary file.
        model: An image model on the CPU, in evaluation mode.
        arithmetic: "exact", to be read on every machine, or "native", on this one.
        chunk_tiles: Tiles of a chunk, which is lost as a whole where a byte of it is.
        batch: Most tiles at once.
        model_name: What the archive calls the model, beside its digest.
        progress: Called with the number of tiles that are done.

    Raises:
        ValueError: If the model cannot be coded with, or an argument is out of range.
    """

    def __init__(
        self,
        file: BinaryIO,
        model: ImageFlow,
        *,
        arithmetic: str = "exact",
        chunk_tiles: int = CHUNK_TILES,
        batch: int = MOST_AT_ONCE,
        model_name: str = "",
        progress: Progress | None = None,
    ) -> None:
        require_codable(model, arithmetic)
        if not 1 <= chunk_tiles <= MAX_CHUNK_TILES:
            raise ValueError(f"chunk must be from 1 to {MAX_CHUNK_TILES}, got {chunk_tiles}")
        if not 1 <= batch <= MAX_BATCH:
            raise ValueError(f"batch must be from 1 to {MAX_BATCH}, got {batch}")
        self._model = model
        self._arithmetic = arithmetic
        self._chunk_tiles, self._batch, self._progress = chunk_tiles, batch, progress
        header = {
            "model": {
                "digest": model_digest(model),
                "class": type(model).__name__,
                "name": model_name,
                "shape": list(model.data_shape),
            },
            "arithmetic": stored_arithmetic(arithmetic),
        }
        self._container = container.Writer(file, header)
        self._waiting: list[NDArray[np.uint8]] = []
        self._tiles = 0
        self._batches: set[int] = set()
        self._index: list[dict[str, Any]] = []

    def add_picture(self, picture: Picture) -> None:
        """Add a picture of any size.

        Raises:
            ValueError: If its colours are not the model's.
        """
        channels, tile_height, tile_width = self._model.data_shape
        height, width, colours = picture.pixels.shape
        if colours not in (1, channels) or channels not in MODES:
            raise ValueError(
                f"{picture.name} has {colours} channel{'s' * (colours > 1)}, "
                f"and the model is of images of {channels}"
            )
        entry: dict[str, Any] = {
            "name": picture.name,
            "size": [height, width],
            "mode": MODES[colours],
            "digest": picture.digest(),
        }
        if picture.alpha is not None:
            alpha = encode_picture(picture.alpha[..., None])
            entry["alpha"] = self._container.add(container.CODEC, alpha)
        rows, columns = grid_of(height, width, tile_height, tile_width)
        # What is mostly margin is smaller without it.
        if 2 * height * width < rows * columns * tile_height * tile_width:
            data = encode_picture(picture.pixels)
            entry["chunk"] = self._container.add(container.CODEC, data)
        else:
            entry["tile"] = self._tiles
            pixels = np.repeat(picture.pixels, channels // colours, axis=-1)
            self._add_tiles(to_tiles(pixels, tile_height, tile_width))
        self._index.append(entry)

    def add_images(self, images: NDArray[np.uint8], name: str = "") -> None:
        """Add a set of images of the model's shape, uint8 [N, H, W, C].

        Raises:
            ValueError: If they are of another type or shape.
        """
        channels, height, width = self._model.data_shape
        good = images.dtype == np.uint8 and images.ndim == 4 and len(images)
        if not good or images.shape[1:] != (height, width, channels):
            raise ValueError(
                f"images must be uint8 [N, {height}, {width}, {channels}] and at least one, got "
                f"{images.dtype} {list(images.shape)}"
            )
        room = self._chunk_tiles - self._tiles % self._chunk_tiles
        ends = [*range(room, len(images), self._chunk_tiles), len(images)]
        digests = [part_digest(images[a:b]) for a, b in itertools.pairwise([0, *ends])]
        entry = {"set": name, "count": len(images), "tile": self._tiles, "digests": digests}
        self._index.append(entry)
        self._add_tiles(images)

    def close(self) -> int:
        """Write what is left; gives the archive's bytes."""
        self._flush(everything=True)
        index: dict[str, Any] = {"pictures": self._index}
        if self._arithmetic == "native":
            with arithmetic(self._model, self._arithmetic):
                index["probe"] = probe(self._model, self._batches)
            index["batches"] = sorted(self._batches)
        return self._container.close(index)

    def _add_tiles(self, tiles: NDArray[np.uint8]) -> None:
        self._waiting.append(tiles)
        self._tiles += len(tiles)
        self._flush(everything=False)

    def _flush(self, everything: bool) -> None:
        waiting = sum(map(len, self._waiting))
        if waiting < self._chunk_tiles and not (everything and waiting):
            return
        tiles = np.concatenate(self._waiting)
        done = 0
        while len(tiles) - done >= (1 if everything else self._chunk_tiles):
            part = tiles[done : done + self._chunk_tiles]
            with arithmetic(self._model, self._arithmetic):
                data = encode_chunk(self._model, part, self._batch, self._progress)
            info = chunk_info(data)
            rest = info.tiles - info.first_tiles
            self._batches |= set(batch_sizes(rest, info.batch, info.growth))
            self._container.add(container.TILES, data, len(part))
            done += len(part)
        self._waiting = [tiles[done:].copy()] if done < len(tiles) else []
