"""Crops of the colour photographs that scikit-image carries inside its wheel."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from PIL import Image

from vflow.data.request import Request

PHOTOGRAPHS: dict[str, tuple[str, ...]] = {
    "train": ("astronaut.png", "motorcycle_left.png", "motorcycle_right.png", "rocket.jpg"),
    "test": ("chelsea.png", "coffee.png"),
}
_REDUCTIONS = (1, 2, 3)
_DEFAULT_SIZE = 32
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
        uint8 [N, 3, S, S], S = image_size or 32.
    """
    size = request.image_size or _DEFAULT_SIZE
    if size > _LARGEST_SIZE:
        raise ValueError(f"image_size must be at most {_LARGEST_SIZE} for photos, got {size}")
    train = request.split == "train"
    stride = max(1, size // 4) if train else size
    crops = []
    for name in PHOTOGRAPHS[request.split]:
        photograph = _read(name)
        for factor in _REDUCTIONS:
            if min(photograph.shape[:2]) // factor >= size:
                crops.append(_crop(_reduce(photograph, factor), size, stride))
    return _spread(np.concatenate(crops))


def _read(name: str) -> NDArray[np.uint8]:
    """Read one of scikit-image's photographs, [H, W, 3], without importing scikit-image."""
    # Found by path: skimage.data would reach for the network if a file were missing.
    spec = importlib.util.find_spec("skimage")
    if spec is None or spec.origin is None:
        raise FileNotFoundError("photos needs scikit-image, which is not installed")
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


def _crop(image: NDArray[np.uint8], size: int, stride: int) -> NDArray[np.uint8]:
    """All crops at multiples of `stride`, [N, 3, size, size]."""
    windows = sliding_window_view(image, (size, size), axis=(0, 1))[::stride, ::stride]
    return windows.reshape(-1, 3, size, size)


def _spread(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Reorder by a golden-ratio stride, which visits all of a sequence evenly."""
    count = len(images)
    step = max(1, round(count * (math.sqrt(5) - 1) / 2))
    while math.gcd(step, count) != 1:
        step += 1
    return images[np.arange(count) * step % count]
