from __future__ import annotations

import hashlib
import socket
import sys

import numpy as np
import pytest

from vflow.data import load_images, photographs
from vflow.runtime.extras import MissingExtra

# Recorded once: other bytes would make bits/dim of different machines incomparable.
SHA256 = {
    ("train", 32): "31cca41fac2d6882ee8dfea069fe31ebcd69f60856f22bc75a0ec9abf3285be0",
    ("test", 32): "e8d5ad58e36aad97d8e18819fd83d2f2a68250785e72262c90a76eea7be6cb69",
    ("train", 64): "f1290754584458383786d665d0fb46116f9d8c816087f043a9fef0c72b3f0bb2",
    ("test", 64): "a7371193134666900652dd564423c39469539f30ad192cacd34f0246bbcbbb4c",
    ("test", 16): "ccf1f8e2447628283d23bd45282dbc8757c6b152dfc7a62d428ad47e245c6b57",
}


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("the bundled photographs must not need a network")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.mark.parametrize(("split", "size"), SHA256)
def test_bytes_are_the_recorded_ones(split, size):
    images = load_images("photos", split, image_size=size).images.numpy()
    assert hashlib.sha256(images.tobytes()).hexdigest() == SHA256[split, size]


@pytest.mark.parametrize(("split", "count"), [("train", 23_737), ("test", 460)])
def test_counts_and_default_size(split, count):
    image_set = load_images("photos", split)
    assert image_set.images.shape == (count, 3, 32, 32)
    assert (image_set.name, image_set.split) == ("photos", split)


def test_train_and_test_show_different_photographs():
    train, test = (set(photographs.PHOTOGRAPHS[split]) for split in ("train", "test"))
    assert not train & test
    crops = [
        {c.tobytes() for c in load_images("photos", s).images.numpy()} for s in ("train", "test")
    ]
    assert not crops[0] & crops[1]


def test_test_crops_are_distinct():
    images = load_images("photos", "test").images.numpy()
    assert len({image.tobytes() for image in images}) == len(images)


def test_crops_are_upright_windows_of_the_photograph():
    photograph = photographs._read("coffee.png")
    images = load_images("photos", "test").images.numpy()
    corner = photograph[32:64, 64:96].transpose(2, 0, 1)
    assert any(np.array_equal(image, corner) for image in images)


def test_reduction_averages_boxes_and_rounds_to_nearest():
    image = np.zeros((5, 4, 3), np.uint8)
    image[:2, :2, 0] = [[1, 2], [2, 2]]  # 1.75
    image[:2, 2:, 0] = [[1, 1], [1, 2]]  # 1.25
    image[2:4, :2, 1] = 255
    reduced = photographs._reduce(image, 2)
    assert reduced.dtype == np.uint8
    assert reduced[..., 0].tolist() == [[2, 1], [0, 0]]
    assert reduced[..., 1].tolist() == [[0, 0], [255, 0]]


@pytest.mark.parametrize("count", [1, 2, 7, 100, 460])
def test_spread_is_a_permutation(count):
    assert sorted(photographs._spread(np.arange(count, dtype=np.uint16))) == list(range(count))


def test_spread_mixes_the_photographs_in_every_prefix():
    order = photographs._spread(np.arange(460, dtype=np.uint16))
    assert 0.4 < (order[:32] < 230).mean() < 0.6


def test_largest_size_is_one_crop_a_photograph_at_least():
    assert load_images("photos", "test", image_size=300).images.shape == (3, 3, 300, 300)


@pytest.mark.parametrize("split", ["train", "test"])
def test_too_large(split):
    with pytest.raises(ValueError, match=r"^image_size must be at most 300 for photos, got 301$"):
        load_images("photos", split, image_size=301)


def test_missing_photograph_is_named_and_not_fetched(monkeypatch):
    monkeypatch.setitem(photographs.PHOTOGRAPHS, "test", ("lily.jpg",))
    with pytest.raises(FileNotFoundError, match=r"^photos needs scikit-image's lily\.jpg"):
        load_images("photos", "test")


def test_missing_scikit_image(monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage", None)
    with pytest.raises(MissingExtra, match=r"^photos needs scikit-image, .*'vflow\[demo\]'$"):
        load_images("photos", "test")
