from __future__ import annotations

import hashlib
import sys
import tarfile
import types
from pathlib import Path

import numpy as np
import pytest

from vflow.data import cifar10, load_images

COUNT = 3


@pytest.fixture(autouse=True)
def _small_files(monkeypatch):
    monkeypatch.setattr(cifar10, "IMAGES_PER_FILE", COUNT)
    monkeypatch.setitem(sys.modules, "torchvision", None)  # importing it raises ImportError


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (6 * COUNT, 3, 32, 32), np.uint8)


def write_folder(parent: Path, images: np.ndarray) -> Path:
    folder = parent / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    names = [f"data_batch_{i}.bin" for i in range(1, 6)] + ["test_batch.bin"]
    for name, part in zip(names, np.split(images, 6), strict=True):
        labels = np.full((COUNT, 1), 7, np.uint8)
        np.concatenate([labels, part.reshape(COUNT, -1)], axis=1).tofile(folder / name)
    return folder


def write_archive(path: Path, folder: Path, monkeypatch) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as tar:
        tar.add(folder, arcname=folder.name)
    monkeypatch.setattr(cifar10, "MD5", hashlib.md5(path.read_bytes()).hexdigest())


def check(root: Path, images: np.ndarray) -> None:
    train, test = (load_images("cifar10", split, root=root).images for split in ("train", "test"))
    assert np.array_equal(train.numpy(), images[: 5 * COUNT])
    assert np.array_equal(test.numpy(), images[5 * COUNT :])


@pytest.mark.parametrize("parent", ["cifar10", "."])
def test_folder(tmp_path, images, parent):
    write_folder(tmp_path / parent, images)
    check(tmp_path, images)


@pytest.mark.parametrize("parent", ["cifar10", "."])
def test_archive(tmp_path, images, parent, monkeypatch):
    folder = write_folder(tmp_path / "elsewhere", images)
    root = tmp_path / "root"
    write_archive(root / parent / "cifar-10-binary.tar.gz", folder, monkeypatch)
    check(root, images)


def test_download_goes_through_torchvision(tmp_path, images, monkeypatch):
    source = tmp_path / "source.tar.gz"
    write_archive(source, write_folder(tmp_path / "elsewhere", images), monkeypatch)
    calls = []

    def download_url(url, root, filename, md5):
        calls.append((url, md5))
        Path(root, filename).write_bytes(source.read_bytes())

    install(monkeypatch, download_url)
    check(tmp_path / "root", images)
    assert calls == [(cifar10.URL, cifar10.MD5)]  # the second split finds the first one's
    assert [p.name for p in (tmp_path / "root" / "cifar10").iterdir()] == [cifar10.ARCHIVE]


def test_failed_download_leaves_nothing(tmp_path, monkeypatch):
    def download_url(url, root, filename, md5):
        Path(root, filename).write_bytes(b"half")
        raise RuntimeError("File not found or corrupted.")

    install(monkeypatch, download_url)
    with pytest.raises(OSError, match=r"^cifar10 could not be downloaded .* by hand to"):
        load_images("cifar10", "train", root=tmp_path)
    assert list((tmp_path / "cifar10").iterdir()) == []


def install(monkeypatch, download_url) -> None:
    for name in ("torchvision", "torchvision.datasets", "torchvision.datasets.utils"):
        module = types.ModuleType(name)
        module.download_url = download_url
        monkeypatch.setitem(sys.modules, name, module)


def test_nothing_there_and_no_torchvision(tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        load_images("cifar10", "train", root=tmp_path)
    message = str(error.value)
    assert "\n" not in message
    for part in (cifar10.FOLDER, cifar10.ARCHIVE, cifar10.URL, str(tmp_path), "torchvision"):
        assert part in message
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("change", [-1, 1])
def test_file_of_a_wrong_length(tmp_path, images, change):
    path = write_folder(tmp_path, images) / "data_batch_3.bin"
    path.write_bytes(path.read_bytes()[:change] if change < 0 else path.read_bytes() + b"x")
    expected = rf"^data_batch_3\.bin of cifar10 must have 9219 bytes, got {9219 + change}$"
    with pytest.raises(ValueError, match=expected):
        load_images("cifar10", "train", root=tmp_path)


def test_missing_file(tmp_path, images):
    (write_folder(tmp_path, images) / "data_batch_5.bin").unlink()
    with pytest.raises(FileNotFoundError, match=r"^cifar10 needs data_batch_5\.bin in "):
        load_images("cifar10", "train", root=tmp_path)


def test_truncated_archive(tmp_path, images, monkeypatch):
    archive = tmp_path / "cifar-10-binary.tar.gz"
    write_archive(archive, write_folder(tmp_path / "elsewhere", images), monkeypatch)
    archive.write_bytes(archive.read_bytes()[:-100])
    with pytest.raises(
        ValueError, match=r"cifar-10-binary\.tar\.gz must have the MD5 [0-9a-f]{32}"
    ):
        load_images("cifar10", "train", root=tmp_path)


def test_another_size(tmp_path):
    with pytest.raises(ValueError, match=r"^image_size must be 32 for cifar10, got 64$"):
        load_images("cifar10", "train", image_size=64, root=tmp_path)


def test_the_official_digest():
    # https://www.cs.toronto.edu/~kriz/cifar.html gives it beside the archive.
    assert cifar10.MD5 == "c32a1d4ab5d03f1284b67883e8d87530"
