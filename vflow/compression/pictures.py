"""Picture files as arrays of bytes, and as tiles of a model's size."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vflow.data.folder import SUFFIXES
from vflow.runtime.files import atomic_path

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
MODES = {"1": "L", "L": "L", "LA": "LA", "RGB": "RGB", "RGBA": "RGBA", "PA": "RGBA"}
"""Of Pillow's pictures, and as what each is kept."""


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture: its name, uint8 [H, W, C] and, where it has one, its alpha [H, W]."""

    name: str
    pixels: NDArray[np.uint8]
    alpha: NDArray[np.uint8] | None = None

    def digest(self) -> str:
        """BLAKE2b, 8 bytes in hexadecimal, of all its bytes."""
        digest = hashlib.blake2b(np.ascontiguousarray(self.pixels).data, digest_size=8)
        if self.alpha is not None:
            digest.update(np.ascontiguousarray(self.alpha).data)
        return digest.hexdigest()


def part_digest(images: NDArray[np.uint8]) -> str:
    """BLAKE2b, 8 bytes in hexadecimal, of the images of a set that are in one chunk."""
    return hashlib.blake2b(np.ascontiguousarray(images).data, digest_size=8).hexdigest()


def find_pictures(paths: list[Path]) -> list[tuple[Path, str]]:
    """The picture files named, and those below the folders named, each with its name in an archive.

    A file's name is its own, that of one in a folder its path in there; the suffix becomes .png.

    Raises:
        OSError: If there is no such file or folder.
        ValueError: If a folder has no pictures, or two have one name.
    """
    found: list[tuple[Path, str]] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(_walk(path))
            if not inside:
                raise ValueError(f"{path} must hold pictures ({', '.join(SUFFIXES)}), found none")
            found += [(path / name, name) for name in inside]
        elif path.exists():
            found.append((path, path.name))
        else:
            raise FileNotFoundError(f"there is no picture or folder {path}")
    names: dict[str, Path] = {}
    for path, name in found:
        other = names.setdefault(output_name(name), path)
        if other is not path:
            raise ValueError(f"{path} and {other} would both become {output_name(name)}")
    return found


def output_name(name: str) -> str:
    """A picture's file when it is written again: its name with .png for its suffix."""
    return str(PurePosixPath(name).with_suffix(".png"))


def read_picture(path: Path, name: str) -> Picture:
    """Read a picture of 8 bits, grey or RGB, with or without alpha.

    Raises:
        ValueError: If it is damaged, or anything else.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=FORMATS) as image:
                pixels = np.asarray(image.convert(_mode_of(image)))
    except FileNotFoundError:
        raise
    except (
        OSError,
        ValueError,
        SyntaxError,
        ArithmeticError,
        LookupError,
        TypeError,
        Image.DecompressionBombError,
        Image.DecompressionBombWarning,
    ) as error:
        raise ValueError(f"{path} cannot be compressed: {error}") from error
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    colours = pixels.shape[-1] - (pixels.shape[-1] % 2 == 0)
    alpha = pixels[..., -1] if colours < pixels.shape[-1] else None
    return Picture(name, np.ascontiguousarray(pixels[..., :colours]), alpha)


def write_picture(picture: Picture, folder: Path) -> Path:
    """Write a picture as PNG under its name in a folder.

    Raises:
        ValueError: If the name leads out of the folder.
        OSError: If it cannot be written.
    """
    relative = PurePosixPath(output_name(picture.name))
    if relative.is_absolute() or ".." in relative.parts or "\0" in picture.name:
        raise ValueError(f"the name {picture.name!r} leads out of {folder}")
    pixels = picture.pixels
    if picture.alpha is not None:
        pixels = np.concatenate([pixels, picture.alpha[..., None]], axis=-1)
    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    path = folder / relative
    with atomic_path(path) as temporary:
        image.save(temporary, format="PNG", optimize=False)
    return path


def to_tiles(pixels: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """[H, W, C] -> tiles [N, height, width, C], row by row; the edges are repeated outwards."""
    rows, columns = grid_of(pixels.shape[0], pixels.shape[1], height, width)
    margin = (rows * height - pixels.shape[0], columns * width - pixels.shape[1])
    pixels = np.pad(pixels, ((0, margin[0]), (0, margin[1]), (0, 0)), mode="edge")
    tiles = pixels.reshape(rows, height, columns, width, -1).swapaxes(1, 2)
    return np.ascontiguousarray(tiles.reshape(rows * columns, height, width, -1))


def from_tiles(tiles: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """The picture [height, width, C] of its tiles."""
    side_y, side_x, channels = tiles.shape[1:]
    rows, columns = grid_of(height, width, side_y, side_x)
    whole = tiles.reshape(rows, columns, side_y, side_x, channels).swapaxes(1, 2)
    return whole.reshape(rows * side_y, columns * side_x, channels)[:height, :width]


def grid_of(height: int, width: int, tile_height: int, tile_width: int) -> tuple[int, int]:
    """Rows and columns of the tiles that cover a picture."""
    return -(-height // tile_height), -(-width // tile_width)


def _mode_of(image: Image.Image) -> str:
    """What to read a picture as.

    Raises:
        ValueError: If bits would be lost.
    """
    if getattr(image, "n_frames", 1) > 1:
        raise ValueError("it has several frames, and an archive keeps pictures")
    # Pillow reads 16-bit RGB as if it were 8-bit; how it is stored says so.
    if any("16" in str(tile[3]) for tile in getattr(image, "tile", [])) or image.mode.startswith(
        ("I", "F")
    ):
        raise ValueError("its samples are not of 8 bits")
    if image.mode == "P":
        return "RGBA" if "transparency" in image.info else "RGB"
    if image.mode not in MODES:
        raise ValueError(f"its colours are {image.mode}, and an archive keeps grey and RGB")
    if "transparency" in image.info and image.mode in ("1", "L", "RGB"):
        return "LA" if image.mode != "RGB" else "RGBA"
    return MODES[image.mode]


def _walk(folder: Path) -> Iterator[str]:
    for parent, _, names in os.walk(folder):
        for name in names:
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in SUFFIXES:
                yield (Path(parent) / name).relative_to(folder).as_posix()
