"""What `vflow compress` is asked to compress: picture files and folders, or a data set."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vflow.compression.pictures import Picture, find_pictures, grid_of, read_picture
from vflow.compression.writer import ArchiveWriter
from vflow.data import images_of_shape
from vflow.models import ImageFlow


class Sources:
    """What is to be compressed: read once to see that all of it can be, and again to do it.

    Args:
        model: The model.
        images: Picture files and folders of them, or none.
        data: Instead of them a data set, and its split, root and number of images, None for all.

    Raises:
        ValueError: If there is a picture or a data set that the model cannot take; names it.
        OSError: If something cannot be read.
    """

    def __init__(
        self,
        model: ImageFlow,
        images: Sequence[Path],
        data: str | None = None,
        split: str = "test",
        root: Path | None = None,
        count: int | None = None,
    ) -> None:
        self._files = find_pictures(list(images)) if images else []
        self._images: NDArray[np.uint8] | None = None
        self._name = ""
        channels, height, width = model.data_shape
        if data is not None:
            tensor = images_of_shape(data, split, model.data_shape, root)[:count]
            self._images = tensor.permute(0, 2, 3, 1).contiguous().numpy()
            self._name = f"{data} {split}"
            self.count = self.tiles = len(tensor)
            self.values = tensor.numel()
            return
        self.count, self.tiles, self.values = len(self._files), 0, 0
        for path, name in self._files:
            picture = read_picture(path, name)
            if picture.pixels.shape[-1] not in (1, channels) or channels not in (1, 3):
                raise ValueError(
                    f"{path} cannot be compressed: the model is of images of {channels} "
                    f"channel{'s' * (channels > 1)}, got {picture.pixels.shape[-1]}"
                )
            shape = picture.pixels.shape
            rows, columns = grid_of(shape[0], shape[1], height, width)
            self.tiles += rows * columns
            self.values += picture.pixels.size
            self.values += 0 if picture.alpha is None else picture.alpha.size

    def add_to(self, writer: ArchiveWriter) -> None:
        """Add all of it to an archive."""
        if self._images is not None:
            writer.add_images(self._images, self._name)
            return
        for picture in self.pictures():
            writer.add_picture(picture)

    def pictures(self) -> Iterator[Picture]:
        """Each picture, read again; those of a data set have no names."""
        if self._images is not None:
            for image in self._images:
                yield Picture("", image)
        for path, name in self._files:
            yield read_picture(path, name)

    def arrays(self) -> Iterator[NDArray[np.uint8]]:
        """Each picture [H, W, C], its alpha among the channels."""
        for picture in self.pictures():
            alpha = [] if picture.alpha is None else [picture.alpha[..., None]]
            yield np.concatenate([picture.pixels, *alpha], axis=-1)
