from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from vflow.data import load_images

TRAIN = [f"train_data_batch_{i}.npz" for i in range(1, 11)]


def write(folder: Path, size: int) -> dict[str, np.ndarray]:
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    parts = {
        name: rng.integers(0, 256, (1 + i % 3, 3 * size * size), np.uint8)
        for i, name in enumerate([*TRAIN, "val_data.npz"])
    }
    for name, part in parts.items():
        labels = np.ones(len(part), np.int64)
        np.savez(folder / name, data=part, labels=labels, mean=part.mean(0))
    return parts


@pytest.mark.parametrize("size", [32, 64])
def test_official_files(tmp_path, size):
    parts = write(tmp_path / f"imagenet{size}", size)
    train = load_images(f"imagenet{size}", "train", root=tmp_path)
    test = load_images(f"imagenet{size}", "test", image_size=size, root=tmp_path)
    expected = np.concatenate([parts[name] for name in TRAIN]).reshape(-1, 3, size, size)
    assert np.array_equal(train.images.numpy(), expected)
    expected = parts["val_data.npz"].reshape(-1, 3, size, size)
    assert np.array_equal(test.images.numpy(), expected)


def test_root_itself(tmp_path):
    write(tmp_path, 32)
    assert len(load_images("imagenet32", "train", root=tmp_path)) == 19


def test_missing_batch(tmp_path):
    write(tmp_path, 32)
    (tmp_path / TRAIN[9]).unlink()
    with pytest.raises(FileNotFoundError, match=r"^imagenet32 needs train_data_batch_10\.npz in "):
        load_images("imagenet32", "train", root=tmp_path)


def test_files_of_the_other_size(tmp_path):
    write(tmp_path, 32)
    message = (
        r"val_data\.npz must hold 'data' of uint8 and shape \[N, 12288\], got uint8 \(\d, 3072\)$"
    )
    with pytest.raises(ValueError, match=message):
        load_images("imagenet64", "test", root=tmp_path)


@pytest.mark.parametrize(
    ("data", "got"),
    [
        (np.zeros((2, 3072), np.float32), r"float32 \(2, 3072\)"),
        (np.zeros((0, 3072), np.uint8), r"uint8 \(0, 3072\)"),
        (np.zeros((2, 32, 32, 3), np.uint8), r"uint8 \(2, 32, 32, 3\)"),
        (np.array([print], object), r"object \(1,\)"),
    ],
)
def test_wrong_arrays(tmp_path, data, got):
    np.savez(tmp_path / "val_data.npz", data=data)
    with pytest.raises(ValueError, match=rf"val_data\.npz must hold 'data' .* got {got}$"):
        load_images("imagenet32", "test", root=tmp_path)


def test_no_array_named_data(tmp_path):
    np.savez(tmp_path / "val_data.npz", images=np.zeros((2, 3072), np.uint8))
    with pytest.raises(ValueError, match=r"val_data\.npz must be a whole \.npz file .* 'data'"):
        load_images("imagenet32", "test", root=tmp_path)


def test_truncated_file(tmp_path):
    write(tmp_path, 32)
    path = tmp_path / TRAIN[4]
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(ValueError, match=r"train_data_batch_5\.npz must be a whole \.npz file"):
        load_images("imagenet32", "train", root=tmp_path)


def test_damaged_pixels(tmp_path):
    write(tmp_path, 32)
    path = tmp_path / "val_data.npz"
    content = bytearray(path.read_bytes())
    content[1500] ^= 0xFF  # inside the stored pixels: only the archive's checksum can tell
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"val_data\.npz must be a whole \.npz file"):
        load_images("imagenet32", "test", root=tmp_path)


def test_another_size(tmp_path):
    with pytest.raises(ValueError, match=r"^image_size must be 64 for imagenet64, got 32$"):
        load_images("imagenet64", "train", image_size=32, root=tmp_path)
