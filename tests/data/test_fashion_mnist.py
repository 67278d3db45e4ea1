from __future__ import annotations

import gzip
import struct

import numpy as np
import pytest

from vflow.data import load_images

NAMES = {"train": "train-images-idx3-ubyte", "test": "t10k-images-idx3-ubyte"}


def idx(images: np.ndarray, magic: int = 0x803) -> bytes:
    return struct.pack(">4I", magic, *images.shape) + images.tobytes()


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (5, 28, 28), np.uint8)


@pytest.mark.parametrize("gzipped", [False, True])
@pytest.mark.parametrize("parent", ["fashion-mnist", "."])
def test_files(tmp_path, images, gzipped, parent):
    (tmp_path / parent).mkdir(exist_ok=True)
    for split, part in (("train", images[:3]), ("test", images[3:])):
        content = gzip.compress(idx(part)) if gzipped else idx(part)
        (tmp_path / parent / (NAMES[split] + ".gz" * gzipped)).write_bytes(content)
        loaded = load_images("fashion-mnist", split, root=tmp_path).images.numpy()
        assert np.array_equal(loaded, part[:, None])


def test_padding(tmp_path, images):
    (tmp_path / NAMES["test"]).write_bytes(idx(images))
    padded = load_images("fashion-mnist", "test", image_size=32, root=tmp_path).images.numpy()
    assert padded.shape == (5, 1, 32, 32)
    assert np.array_equal(padded[:, 0, 2:30, 2:30], images)
    assert padded.sum(dtype=int) == images.sum(dtype=int)


@pytest.mark.parametrize("size", [16, 30, 64])
def test_another_size(tmp_path, size):
    message = rf"^image_size must be 28 or 32 for fashion-mnist, got {size}$"
    with pytest.raises(ValueError, match=message):
        load_images("fashion-mnist", "test", image_size=size, root=tmp_path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda c: c[:-1], r"must hold \[5, 28, 28\] images in 3936 bytes, got 3935 bytes$"),
        (lambda c: c + b"x", r"must hold \[5, 28, 28\] images in 3936 bytes, got 3937 bytes$"),
        (lambda c: c[:10], r"must be an IDX file, got only 10 bytes$"),
        (lambda c: b"", r"must be an IDX file, got only 0 bytes$"),
        (lambda c: b"\x00\x00\x08\x01" + c[4:], r"\(0x00000803\), got 0x00000801$"),
        (lambda c: idx(np.zeros((0, 28, 28), np.uint8)), r"must hold \[0, 28, 28\] images"),
        (lambda c: idx(np.zeros((1, 20, 20), np.uint8)), r"28x28 images, got \(20, 20\)$"),
    ],
    ids=["truncated", "too-long", "header", "empty", "labels", "no-images", "size"],
)
def test_damaged_files(tmp_path, images, damage, message):
    (tmp_path / NAMES["train"]).write_bytes(damage(idx(images)))
    with pytest.raises(ValueError, match=message) as error:
        load_images("fashion-mnist", "train", root=tmp_path)
    assert NAMES["train"] in str(error.value)


@pytest.mark.parametrize(
    "damage",
    [lambda c: c[:-20], lambda c: b"PK" + c[2:], lambda c: c[:200] + b"\xff" * 50 + c[250:]],
    ids=["truncated", "no-gzip", "damaged"],
)
def test_damaged_gzip(tmp_path, images, damage):
    path = tmp_path / f"{NAMES['train']}.gz"
    path.write_bytes(damage(gzip.compress(idx(images))))
    with pytest.raises(ValueError, match=r"-ubyte\.gz must be a whole gzip file: "):
        load_images("fashion-mnist", "train", root=tmp_path)


def test_missing(tmp_path):
    message = r"^fashion-mnist needs t10k-images-idx3-ubyte or t10k-images-idx3-ubyte\.gz in "
    with pytest.raises(FileNotFoundError, match=message):
        load_images("fashion-mnist", "test", root=tmp_path)
