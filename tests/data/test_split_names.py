from __future__ import annotations

import pytest

from vflow.data.split_names import array_split, is_images, split_of, split_within

SPELT = {
    "train": ["train", "Train", "TRAIN", "training", "Training"],
    "val": ["val", "Val", "valid", "VALID", "validation", "dev"],
    "test": ["test", "Test", "TEST", "testing", "eval", "evaluation"],
}


@pytest.mark.parametrize(("split", "name"), [(s, n) for s, names in SPELT.items() for n in names])
def test_what_the_world_calls_a_split(split, name):
    assert split_of(name) == split
    assert array_split(name) == split
    for key in (f"x_{name}", f"X_{name}", f"{name}_images", f"{name}_x", f"images-{name}"):
        assert array_split(key) == split
    for key in (f"y_{name}", f"{name}_labels", f"{name}_y", f"{name}_mask"):
        assert array_split(key) is None


@pytest.mark.parametrize("name", ["trains", "pretrain", "invalid", "contest", "device", "1", ""])
def test_other_words(name):
    assert split_of(name) is split_within(name) is array_split(name) is None


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train2017", "train"),
        ("ILSVRC2012_img_val", "val"),
        ("DIV2K_train_HR", "train"),
        ("testA", "test"),
        ("TestSet", "test"),
        ("training_set", "train"),
        ("valid_64x64", "val"),
        ("trainval", None),
        ("train-test", None),
    ],
)
def test_a_split_within_a_name(name, split):
    assert split_within(name) == split


def test_names_of_images():
    assert all(map(is_images, ["images", "X", "data", "x_data", "img"]))
    assert not any(map(is_images, ["labels", "y", "image_ids", "arr_0", "", "0"]))
