"""Any folder of images, brought to one size."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps
from tqdm import tqdm

from vflow.data.request import Request

# Named, because Pillow tries formats that run other programs (EPS) if one lets it.
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
_DEFAULT_SIZE = 32
_NAMED_AT_MOST = 10
_MANY = 500


class UnreadableImagesWarning(UserWarning):
    """Some files of a folder are not images that can be read; the others were loaded."""


def load(request: Request) -> NDArray[np.uint8]:
    """All images under a folder, sorted by name, in RGB.

    Each is turned upright by its EXIF orientation, resized (Lanczos) so that the short side is
    `image_size` (default 32), and cropped at its centre. Transparency is dropped, the first frame
    of an animation taken. Subfolders PATH/train and PATH/test are the splits if there are any;
    otherwise a hash of each file's relative name sends about one in ten to the test set. Names
    that begin with a dot are passed over.

    Returns:
        uint8 [N, 3, S, S].

    Warns:
        UnreadableImagesWarning: Names the files that are damaged or too large to be believed
            (Pillow's limit against decompression bombs), which are skipped.
    """
    size = request.image_size or _DEFAULT_SIZE
    paths = _list_split(request)
    images, unreadable = _read_all(paths, size)
    if not images:
        raise ValueError(
            f"{request.path} must hold readable images, got {len(paths)} files and none is: "
            f"{unreadable[0]}"
        )
    if unreadable:
        more = len(unreadable) - _NAMED_AT_MOST
        warnings.warn(
            f"skipped {len(unreadable)} of {len(paths)} images of {request.path} as unreadable: "
            + "; ".join(unreadable[:_NAMED_AT_MOST])
            + (f"; and {more} more" if more > 0 else ""),
            UnreadableImagesWarning,
            stacklevel=3,
        )
    return np.stack(images)


def _list_split(request: Request) -> list[Path]:
    """The image files of a split, in the order of their names."""
    folder, split = request.path, request.split
    if not folder.is_dir():
        raise FileNotFoundError(f"{request.spec} must name a folder, found none at {folder}")
    if (folder / "train").is_dir() or (folder / "test").is_dir():
        folder = folder / split
        if not folder.is_dir():
            raise FileNotFoundError(f"{request.path} must hold train and test, found no {split}")
        names = sorted(_walk(folder))
    else:
        every = sorted(_walk(folder))
        names = [name for name in every if _hash_split(name) == split]
        if every and not names:
            raise ValueError(
                f"{folder} has too few images for a {split} split of its own, got {len(every)}: "
                "sort them into subfolders train and test"
            )
    if not names:
        raise ValueError(f"{folder} must hold images ({' '.join(SUFFIXES)}), found no such file")
    return [folder / name for name in names]


def _walk(folder: Path) -> Iterator[str]:
    """Names of the image files under a folder, relative to it, with forward slashes."""

    def refuse(error: OSError) -> None:
        raise error  # os.walk would pass over a folder that cannot be read

    for parent, _, names in os.walk(folder, onerror=refuse):
        for name in names:
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in SUFFIXES:
                yield (Path(parent) / name).relative_to(folder).as_posix()


def _hash_split(name: str) -> str:
    digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()
    return "test" if int.from_bytes(digest[:4], "big") % 10 == 0 else "train"


def _read_all(paths: list[Path], size: int) -> tuple[list[NDArray[np.uint8]], list[str]]:
    """The images, and a line on each unreadable file."""
    Image.init()  # Pillow knows a format named to open() only once its plugin is loaded
    images: list[NDArray[np.uint8]] = []
    unreadable: list[str] = []
    with warnings.catch_warnings(), ThreadPoolExecutor() as pool:
        warnings.simplefilter("ignore")  # of Pillow's, about metadata that plays no part here
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        results = pool.map(lambda path: _try_read(path, size), paths)
        for result in tqdm(results, "images", len(paths), disable=len(paths) < _MANY):
            if isinstance(result, str):
                unreadable.append(result)
            else:
                images.append(result)
    return images, unreadable


def _try_read(path: Path, size: int) -> NDArray[np.uint8] | str:
    try:
        return _read(path, size)
    # Damaged files raise all of these from Pillow's decoders, SyntaxError included.
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
        return f"{path} ({type(error).__name__}: {' '.join(str(error).split())})"


def _read(path: Path, size: int) -> NDArray[np.uint8]:
    with Image.open(path, formats=_FORMATS) as opened:
        # Large JPEGs may decode at a fraction of their size, still four times what is wanted.
        opened.draft(None, (4 * size, 4 * size))
        image = _to_rgb(ImageOps.exif_transpose(opened))
    width, height = image.size
    short = min(width, height)
    scaled = (max(size, round(width * size / short)), max(size, round(height * size / short)))
    image = image.resize(scaled, Image.Resampling.LANCZOS)
    left, top = (scaled[0] - size) // 2, (scaled[1] - size) // 2
    return np.asarray(image.crop((left, top, left + size, top + size))).transpose(2, 0, 1)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise ValueError("floating-point pixels have no known range")
    if image.mode.startswith("I"):  # 16-bit grey, which Pillow's conversion would saturate
        grey = np.asarray(image).clip(0, 65535) >> 8
        image = Image.fromarray(grey.astype(np.uint8))
    return image.convert("RGB")
