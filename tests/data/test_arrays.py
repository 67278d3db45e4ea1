from __future__ import annotations

import io
import os
import re
import warnings

import numpy as np
import pytest
import torch

from vflow.data import load_images, splits


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
        (
            np.zeros((2, 4, 4, 3), np.float32),
            r"must hold uint8, got float32: save \(255 \* array\)\.round\(\)\.astype",
        ),
        (
            np.zeros((2, 4, 4, 3), np.int64),
            r"must hold uint8, got int64: save array\.astype\('uint8'\)",
        ),
        (np.zeros((2, 4, 4), np.uint8), r"shape \[N, H, W, C\], got \(2, 4, 4\)$"),
        (np.zeros((0, 4, 4, 3), np.uint8), r"non-empty shape .* got \(0, 4, 4, 3\)$"),
        (np.zeros((1, 4, 4, 3), np.uint8), r"must hold at least 2 images to be split, got 1$"),
        (
            np.array([None, "x"], object),
            r"must hold uint8, got Python objects, which only pickle reads",
        ),
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
    np.savez(tmp_path / "all.npz", images=np.full((2, 4, 4, 3), print, object))
    with pytest.raises(ValueError, match=r"must hold uint8, got Python objects"):
        loaded(tmp_path / "all.npz", "train")


def test_several_arrays_without_a_known_name(tmp_path):
    np.savez(tmp_path / "all.npz", cats=np.zeros(1), dogs=np.zeros(1))
    with pytest.raises(
        ValueError,
        match=r"must hold its images under x_train, x_test .*, or hold one array, got cats, dogs$",
    ):
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


@pytest.mark.parametrize(
    ("train", "test", "val"),
    [
        ("x_train", "x_test", "x_val"),
        ("X_train", "X_test", "X_valid"),
        ("train_images", "test_images", "val_images"),
        ("trainX", "testX", "validationX"),
        ("train", "test", "val"),
        ("Train", "TEST", "dev"),
    ],
)
def test_names_of_splits_in_npz_files_and_of_files(tmp_path, stored, train, test, val):
    parts = {train: stored[:12], test: stored[12:20], val: stored[20:]}
    labels = {f"y_{split}": np.zeros(3) for split in ("train", "test", "val")}
    np.savez(tmp_path / "all.npz", **parts, **labels, train_labels=np.zeros(3))
    (tmp_path / "files").mkdir()
    for name, part in {**parts, **labels}.items():
        np.save(tmp_path / "files" / name, part)
    for spec in (tmp_path / "all.npz", tmp_path / "files"):
        assert splits(f"npy:{spec}") == ("train", "val", "test")
        for split, name in (("train", train), ("test", test), ("val", val)):
            assert np.array_equal(loaded(spec, split), as_nchw(parts[name]))


def test_a_pattern_finds_what_the_world_calls_a_split(tmp_path, stored):
    for name in ("Train", "valid", "TEST"):
        np.save(tmp_path / f"a-{name}.npy", stored)
    pattern = tmp_path / "a-{split}.npy"
    assert splits(f"npy:{pattern}") == ("train", "val", "test")
    assert len(loaded(pattern, "val")) == 23
    np.save(tmp_path / "a-val.npy", stored)
    with pytest.raises(ValueError, match=r"must have one array for val, got .*val.npy and .*valid"):
        loaded(pattern, "val")
    with pytest.raises(FileNotFoundError, match=r"npy:.* needs .*b-train\.npy, found none there$"):
        loaded(tmp_path / "b-{split}.npy", "train")


def test_a_split_that_is_missing_is_told_with_those_there(tmp_path, stored):
    np.savez(tmp_path / "all.npz", x_train=stored, x_val=stored)
    message = r"^npy:.*all\.npz has no test images, only those of train and val$"
    with pytest.raises(FileNotFoundError, match=message):
        loaded(tmp_path / "all.npz", "test")
    np.save(tmp_path / "one.npy", stored)
    assert splits(f"npy:{tmp_path / 'one.npy'}") == ("train", "test")
    with pytest.raises(FileNotFoundError, match=r"has no val images, only those of train and test"):
        loaded(tmp_path / "one.npy", "val")


def test_two_arrays_for_a_split_are_refused(tmp_path, stored):
    np.save(tmp_path / "train.npy", stored)
    np.savez(tmp_path / "x_train.npz", stored)
    with pytest.raises(ValueError, match=r"one array for train, got .*train\.npy and .*x_train"):
        loaded(tmp_path, "train")
    np.savez(tmp_path / "all.npz", x_train=stored, X_train=stored)
    with pytest.raises(ValueError, match=r"one array for train, got x_train of .* and X_train of"):
        loaded(tmp_path / "all.npz", "train")


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        ({"arr_0": 4, "arr_1": 1}, "arr_0"),
        ({"x": 4, "y": 1}, "x"),
        ({"X": 4, "labels": 1, "masks": 4}, "X"),
        ({"images": 4, "data": 1}, "images"),
        ({"arr_0": 4, "arr_1": 4}, None),
        ({"images": 4, "data": 4}, None),
        ({"cats": 4, "dogs": 4}, None),
        ({}, None),
    ],
)
def test_which_array_of_several_holds_the_images(tmp_path, stored, names, chosen):
    arrays = {name: stored if ndim == 4 else np.zeros(23) for name, ndim in names.items()}
    np.savez(tmp_path / "all.npz", **arrays)
    if chosen:
        assert np.array_equal(loaded(tmp_path / "all.npz", "test"), as_nchw(stored[::10]))
        return
    message = rf"must hold its images under x_train, .* got {', '.join(names) or 'no array'}$"
    with pytest.raises(ValueError, match=message):
        loaded(tmp_path / "all.npz", "test")


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((9, 3, 32, 32), r"looks like \[N, C, H, W\]: save array\.transpose\(0, 2, 3, 1\)$"),
        ((9, 1, 28, 28), r"looks like \[N, C, H, W\]"),
        ((9, 4, 64, 64), r"looks like \[N, C, H, W\]"),
        ((9, 6, 16, 24), r"looks like \[N, C, H, W\]"),
        ((3, 32, 32), r"looks like one image \[C, H, W\]: save array\[\.\.\., None\] if"),
        ((32, 32, 3), r"got \(32, 32, 3\)$"),
        ((9, 3072), r"looks like flat images: reshape them$"),
        ((9,), r"got \(9,\)$"),
        ((9, 0, 4, 3), r"got \(9, 0, 4, 3\)$"),
        ((9, 1, 4, 4, 3), r"got \(9, 1, 4, 4, 3\)$"),
    ],
)
def test_layouts_that_are_refused(tmp_path, shape, message):
    np.save(tmp_path / "train.npy", np.zeros(shape, np.uint8))
    with pytest.raises(ValueError, match=r"train\.npy must have a non-empty shape \[N, H") as error:
        loaded(tmp_path, "train")
    assert re.search(message, str(error.value))


@pytest.mark.parametrize(
    "shape",
    [(9, 4, 4, 3), (9, 3, 4, 4), (9, 2, 2, 2), (9, 32, 32, 12), (9, 8, 8, 12), (9, 1, 1, 1)],
)
def test_layouts_that_are_taken(tmp_path, shape):
    array = np.arange(np.prod(shape), dtype=np.int64).astype(np.uint8).reshape(shape)
    np.save(tmp_path / "train.npy", array)
    assert np.array_equal(loaded(tmp_path, "train"), as_nchw(array))


def test_grey_without_an_axis_for_it(tmp_path, stored):
    np.savez(tmp_path / "mnist.npz", x_train=stored[..., 0], x_test=stored[:1, ..., 1])
    assert np.array_equal(loaded(tmp_path / "mnist.npz", "train"), stored[:, None, :, :, 0])
    assert np.array_equal(loaded(tmp_path / "mnist.npz", "test"), stored[:1, None, :, :, 1])


@pytest.mark.parametrize(
    ("dtype", "message"),
    [
        ("float64", r"got float64: save \(255 \* array\)\.round\(\)"),
        (">f4", r"got >f4: save \(255"),
        ("float16", r"got float16: save \(255"),
        ("int64", r"got int64: save array\.astype"),
        (">u2", r"got >u2: save array\.astype"),
        ("int8", r"got int8: save array\.astype"),
        ("bool", r"got bool: save 255 \* array\.astype"),
        ("complex64", r"got complex64$"),
        ([("r", "u1"), ("g", "u1")], r"got \[\('r', 'u1'\), \('g', 'u1'\)\]$"),
    ],
)
@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_other_elements_are_refused_with_what_to_do(tmp_path, dtype, message, suffix):
    path = tmp_path / f"train{suffix}"
    array = np.zeros((2, 4, 4, 3), dtype)
    np.save(path, array) if suffix == ".npy" else np.savez(path, array)
    with pytest.raises(ValueError, match=message):
        loaded(tmp_path, "train")


@pytest.mark.parametrize("order", ["C", "F"])
def test_a_file_of_one_split_is_mapped_and_stays_as_it_is(tmp_path, stored, order):
    np.save(tmp_path / "train.npy", np.asarray(stored, order=order))
    before = (tmp_path / "train.npy").read_bytes()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # torch's, about arrays that must not be written to
        images = load_images(f"npy:{tmp_path}", "train")
    assert images.mapped
    assert np.array_equal(images.images.numpy(), as_nchw(stored))
    images.images.fill_(1)
    assert (tmp_path / "train.npy").read_bytes() == before
    assert images.to("cpu") is images


def test_a_file_larger_than_memory_is_opened_and_not_read(tmp_path):
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    count = 2 * memory // (64 * 64 * 3)
    header = io.BytesIO()
    fields = {"descr": "|u1", "fortran_order": False, "shape": (count, 64, 64, 3)}
    np.lib.format.write_array_header_1_0(header, fields)
    for name in ("train.npy", "one.npy"):
        with open(tmp_path / name, "wb") as file:
            file.write(header.getvalue())
            file.truncate(len(header.getvalue()) + count * 64 * 64 * 3)  # a hole: no disk is used
    with open(tmp_path / "train.npy", "r+b") as file:
        file.seek(-5, os.SEEK_END)
        file.write(b"\7")
    images = load_images(f"npy:{tmp_path}", "train").images
    assert images.shape == (count, 3, 64, 64)
    assert images[-1].sum() == 7
    assert images[torch.tensor([0, count - 1])].sum() == 7
    with pytest.raises(ValueError, match=r"one\.npy must fit into the memory of"):
        loaded(tmp_path / "one.npy", "train")


def test_channels_are_the_arrays_own(tmp_path, stored):
    np.save(tmp_path / "train.npy", stored)
    assert loaded(tmp_path, "train", channels=3).shape[1] == 3
    with pytest.raises(ValueError, match=r"channels must be the arrays' own for npy:.*, 3, got 1$"):
        loaded(tmp_path, "train", channels=1)
    assert loaded(tmp_path, "train", image_size="8x12").shape == (23, 3, 8, 12)
