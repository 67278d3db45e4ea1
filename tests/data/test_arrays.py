from __future__ import annotations

import numpy as np
import pytest

from vflow.data import load_images


@pytest.fixture
def stored() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (23, 8, 12, 3), np.uint8)


def loaded(path, split, **kwargs):
    return load_images(f"npy:{path}", split, **kwargs).images.numpy()


def as_nchw(array):
    return array.transpose(0, 3, 1, 2)


@pytest.mark.parametrize("key", [None, "arr_0", "images", "data"])
def test_one_file_gives_every_tenth_image_to_test(tmp_path, stored, key):
    if key is None:
        path = tmp_path / "all.npy"
        np.save(path, stored)
    else:
        path = tmp_path / "all.npz"
        np.savez(path, **{key: stored})
    is_test = np.arange(23) % 10 == 0
    assert np.array_equal(loaded(path, "test"), as_nchw(stored[[0, 10, 20]]))
    assert np.array_equal(loaded(path, "train"), as_nchw(stored[~is_test]))


def test_the_array_named_images_among_others(tmp_path, stored):
    np.savez_compressed(tmp_path / "all.npz", images=stored, labels=np.arange(23))
    assert np.array_equal(loaded(tmp_path / "all.npz", "test"), as_nchw(stored[::10]))


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
@pytest.mark.parametrize("pattern", ["{split}", "sub/cats-{split}"])
def test_files_of_their_own_for_the_splits(tmp_path, stored, suffix, pattern):
    (tmp_path / "sub").mkdir()
    parts = {"train": stored[:20], "test": stored[20:]}
    for split, part in parts.items():
        path = tmp_path / (pattern.replace("{split}", split) + suffix)
        np.save(path, part) if suffix == ".npy" else np.savez(path, part)
    specs = [tmp_path / (pattern + suffix)] + ([tmp_path] if pattern == "{split}" else [])
    for spec in specs:
        for split, part in parts.items():
            assert np.array_equal(loaded(spec, split), as_nchw(part))


def test_arrays_named_train_and_test(tmp_path, stored):
    np.savez(tmp_path / "both.npz", train=stored[:4], test=stored[4:7])
    assert np.array_equal(loaded(tmp_path / "both.npz", "train"), as_nchw(stored[:4]))
    assert np.array_equal(loaded(tmp_path / "both.npz", "test"), as_nchw(stored[4:7]))


def test_fortran_order_and_grey(tmp_path):
    grey = np.asfortranarray(np.arange(2 * 4 * 4, dtype=np.uint8).reshape(2, 4, 4, 1))
    np.save(tmp_path / "train.npy", grey)
    assert np.array_equal(loaded(tmp_path, "train", image_size=4), as_nchw(grey))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((2, 4, 4, 3), np.float32), r"must hold uint8, got float32$"),
        (np.zeros((2, 4, 4, 3), np.int64), r"must hold uint8, got int64$"),
        (np.zeros((2, 4, 4), np.uint8), r"shape \[N, H, W, C\], got \(2, 4, 4\)$"),
        (np.zeros((0, 4, 4, 3), np.uint8), r"non-empty shape .* got \(0, 4, 4, 3\)$"),
        (np.zeros((1, 4, 4, 3), np.uint8), r"must hold at least 2 images to be split, got 1$"),
        (np.array([None, "x"], object), r"must be a whole \.npy file: .*Python objects"),
    ],
)
def test_wrong_arrays(tmp_path, array, message):
    path = tmp_path / "all.npy"
    np.save(path, array, allow_pickle=True)
    with pytest.raises(ValueError, match=message) as error:
        loaded(path, "train")
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_objects_inside_npz_are_not_unpickled(tmp_path):
    np.savez(tmp_path / "all.npz", images=np.array([print], object))
    with pytest.raises(ValueError, match=r"must be a whole \.npz file"):
        loaded(tmp_path / "all.npz", "train")


def test_several_arrays_without_a_known_name(tmp_path):
    np.savez(tmp_path / "all.npz", cats=np.zeros(1), dogs=np.zeros(1))
    with pytest.raises(ValueError, match=r"expected one array, .* got \['cats', 'dogs'\]"):
        loaded(tmp_path / "all.npz", "train")


def test_truncated_files(tmp_path, stored):
    np.save(tmp_path / "a.npy", stored)
    np.savez(tmp_path / "b.npz", stored)
    for name in ("a.npy", "b.npz"):
        path = tmp_path / name
        path.write_bytes(path.read_bytes()[:1000])
        with pytest.raises(ValueError, match=f"{name} must be a whole"):
            loaded(path, "train")
    (tmp_path / "c.npy").touch()
    with pytest.raises(ValueError, match=r"c\.npy must be a whole \.npy file"):
        loaded(tmp_path / "c.npy", "train")


def test_damaged_compressed_bytes(tmp_path, stored):
    path = tmp_path / "all.npz"
    np.savez_compressed(path, stored)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"must be a whole \.npz file"):
        loaded(path, "train")


def test_missing_and_misnamed_files(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"needs a \.npy or \.npz file or a folder, found"):
        loaded(tmp_path / "none.npy", "train")
    with pytest.raises(FileNotFoundError, match=r"must hold train\.npy or train\.npz, found ne"):
        loaded(tmp_path, "train")
    (tmp_path / "x.pkl").touch()
    with pytest.raises(ValueError, match=r"must name a \.npy or \.npz file or a folder, got"):
        loaded(tmp_path / "x.pkl", "train")


def test_image_size_is_the_arrays_own(tmp_path, stored):
    np.save(tmp_path / "train.npy", stored)
    with pytest.raises(ValueError, match=r"the arrays' own .* 8x12, got 8$"):
        loaded(tmp_path, "train", image_size=8)
