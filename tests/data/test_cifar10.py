from __future__ import annotations

import hashlib
import io
import tarfile
from pathlib import Path
from unittest.mock import Mock
from urllib.error import URLError

import numpy as np
import pytest

from vflow.data import cifar10, load_images, splits

COUNT = 3


@pytest.fixture(autouse=True)
def _small_files(monkeypatch):
    monkeypatch.setattr(cifar10, "IMAGES_PER_FILE", COUNT)
    monkeypatch.setattr("urllib.request.urlopen", Mock(side_effect=URLError("no network")))


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


def test_download(tmp_path, images, monkeypatch):
    source = tmp_path / "source.tar.gz"
    write_archive(source, write_folder(tmp_path / "elsewhere", images), monkeypatch)
    folder = tmp_path / "root" / "cifar10"
    folder.mkdir(parents=True)
    (folder / f"{cifar10.ARCHIVE}.part").write_bytes(b"of an attempt that was cut off")
    monkeypatch.setattr(
        "vflow.data.download._request", lambda url, start: Response(source.read_bytes())
    )
    check(tmp_path / "root", images)  # the second split finds the first one's
    assert {p.name for p in folder.iterdir()} - {f".{cifar10.ARCHIVE}.lock"} == {cifar10.ARCHIVE}


class Response(io.BytesIO):
    status, length = 200, None


@pytest.mark.parametrize("pickles", [None, "cifar-10-batches-py", "cifar-10-python.tar.gz"])
def test_nothing_there_and_no_network(tmp_path, pickles):
    if pickles:
        (tmp_path / pickles).mkdir()
    with pytest.raises(FileNotFoundError) as error:
        load_images("cifar10", "train", root=tmp_path)
    message = str(error.value)
    assert "\n" not in message
    expected = (cifar10.FOLDER, cifar10.ARCHIVE, cifar10.URL, str(tmp_path / "cifar10"), "no net")
    for part in expected:
        assert part in message
    assert ("pickles can run any code and are not read" in message) == bool(pickles)
    assert (str(tmp_path / str(pickles)) in message) == bool(pickles)
    assert len(list(tmp_path.iterdir())) == bool(pickles)


def test_the_files_without_their_folder(tmp_path, images):
    write_folder(tmp_path / "cifar10", images).rename(tmp_path / "moved")
    (tmp_path / "cifar10").rmdir()
    (tmp_path / "moved").rename(tmp_path / "cifar10")
    check(tmp_path, images)


def test_arrays(tmp_path, images):
    stored = images.transpose(0, 2, 3, 1)
    arrays = {"x_train": stored[: 5 * COUNT], "x_test": stored[5 * COUNT :]}
    np.savez(tmp_path / "cifar10.npz", **arrays, y_train=np.zeros(5 * COUNT))
    check(tmp_path, images)
    np.savez(tmp_path / "cifar10.npz", x_train=stored, x_test=stored[1:2])
    for split, count in (("train", 18), ("test", 1)):
        message = rf"the {split} images of .*npz must be CIFAR-10's, .*, got \({count}, 3, 32, 32\)"
        with pytest.raises(ValueError, match=message):
            load_images("cifar10", split, root=tmp_path)


def test_splits(tmp_path):
    assert splits("cifar10", root=tmp_path) == ("train", "test")
    with pytest.raises(FileNotFoundError, match=r"^cifar10 has no val images, only those of train"):
        load_images("cifar10", "val", root=tmp_path)


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
