"""Crops of the colour photographs that scikit-image carries inside its wheel."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from PIL import Image

from vflow.data.image_size import Size, size_text
from vflow.data.source import Request, Source, register
from vflow.runtime.extras import require

PHOTOGRAPHS: dict[str, tuple[str, ...]] = {
    "train": ("astronaut.png", "motorcycle_left.png", "motorcycle_right.png", "rocket.jpg"),
    "test": ("chelsea.png", "coffee.png"),
}
_REDUCTIONS = (1, 2, 3)
_LARGEST_SIZE = 300  # the height of the smallest photograph, chelsea.png


def load(request: Request) -> NDArray[np.uint8]:
    """Crops of photographs, the same bytes on every machine and with nothing to download.

    Train: an astronaut's portrait, a motorcycle in a garage (both views of a stereo pair) and a
    rocket at dusk, densely cropped: neighbours are a quarter of a side apart. Test: a cat's face
    and a cup of coffee on a table, cropped side by side without overlap within a scale. These two
    are ordinary photographs (fur and blurred background; wood, porcelain and metal), stored
    without loss, of scenes that the training set does not show. scikit-image's grey pictures,
    drawings, micrographs and telescope images are left out.

    Each photograph is used at its full size and at a half and a third of it, reduced by exact
    integer box averages; that way no version of a resampling library changes a byte. Any first n
    images of a split are spread evenly over its photographs and scales.

    Returns:
        uint8 [N, 3, H, W], or [N, 1, H, W] in grey.
    """
    size = request.size
    assert size is not None
    if max(size) > _LARGEST_SIZE:
        raise ValueError(
            f"image_size must be at most {_LARGEST_SIZE} for photos, got {size_text(size)}"
        )
    train = request.split == "train"
    crops = []
    for name in PHOTOGRAPHS[request.split]:
        photograph = _read(name)
        for factor in _REDUCTIONS:
            reduced = _reduce(photograph, factor)
            if reduced.shape[0] >= size[0] and reduced.shape[1] >= size[1]:
                crops.append(_crop(reduced, size, dense=train))
    images = _spread(np.concatenate(crops))
    return _to_grey(images) if request.channels == 1 else images


def _read(name: str) -> NDArray[np.uint8]:
    """Read one of scikit-image's photographs, [H, W, 3], without importing scikit-image."""
    # Found by path: skimage.data would reach for the network if a file were missing.
    require("skimage", "photos")
    spec = importlib.util.find_spec("skimage")
    assert spec is not None
    assert spec.origin is not None
    path = Path(spec.origin).parent / "data" / name
    if not path.is_file():
        raise FileNotFoundError(f"photos needs scikit-image's {name}, which is not at {path}")
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def _reduce(image: NDArray[np.uint8], factor: int) -> NDArray[np.uint8]:
    """Average boxes of factor x factor pixels, rounded to nearest in integers."""
    height, width = image.shape[0] // factor, image.shape[1] // factor
    boxes = image[: height * factor, : width * factor].reshape(height, factor, width, factor, 3)
    area = factor * factor
    return ((boxes.sum(axis=(1, 3), dtype=np.uint32) + area // 2) // area).astype(np.uint8)


def _crop(image: NDArray[np.uint8], size: Size, dense: bool) -> NDArray[np.uint8]:
    """Crops side by side, or a quarter of a side apart if they are to be dense, [N, 3, H, W]."""
    down, right = (max(1, side // 4) if dense else side for side in size)
    windows = sliding_window_view(image, size, axis=(0, 1))[::down, ::right]
    return windows.reshape(-1, 3, *size)


def _to_grey(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Luma (ITU-R BT.601) of [N, 3, H, W], in Pillow's integers, as [N, 1, H, W]."""
    red, green, blue = images.astype(np.uint32).transpose(1, 0, 2, 3)
    luma = (19595 * red + 38470 * green + 7471 * blue + (1 << 15)) >> 16
    return luma.astype(np.uint8)[:, None]


def _spread(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Reorder by a golden-ratio stride, which visits all of a sequence evenly."""
    count = len(images)
    step = max(1, round(count * (math.sqrt(5) - 1) / 2))
    while math.gcd(step, count) != 1:
        step += 1
    return images[np.arange(count) * step % count]


register(
    Source(
        name="photos",
        help="32x32 (or HxW) crops of photographs bundled with scikit-image; nothing to download",
        load=load,
        channels=(3, 1),
    )
)
