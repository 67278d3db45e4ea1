"""What splits a folder: by hand for each way that data sets are laid out."""

from __future__ import annotations

from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vflow.data.folder_splits import arrange

FIELDS = ("left_out", "remarks", "rivals")


def plain(names: list[str]) -> dict[str, list[str]]:
    arrangement = arrange(names)
    assert not any(getattr(arrangement, field) for field in FIELDS)
    assert not arrangement.by_hash
    return arrangement.splits


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [
        ("train", "val", "test"),
        ("Train", "Valid", "Test"),
        ("TRAIN", "VALIDATION", "TEST"),
        ("training", "dev", "testing"),
        ("train2017", "val2017", "test2017"),
        ("DIV2K_train_HR", "DIV2K_valid_HR", "DIV2K_test_HR"),
        ("training_set", "valid_set", "test_set"),
    ],
)
@pytest.mark.parametrize("above", ["", "unzipped/", "a/b/"])
def test_folders_named_for_splits(train, val, test, above):
    names = {
        "train": [f"{above}{train}/cat/1.png", f"{above}{train}/x.png"],
        "val": [f"{above}{val}/cat/1.png"],
        "test": [f"{above}{test}/1.png"],
    }
    assert plain([name for group in names.values() for name in group]) == names


def test_class_folders_with_splits_inside():
    assert plain(["cat/train/1", "cat/Test/1", "dog/train/2", "dog/test/1"]) == {
        "train": ["cat/train/1", "dog/train/2"],
        "test": ["cat/Test/1", "dog/test/1"],
    }


def test_class_folders_of_which_some_have_splits_are_refused():
    message = r"^all images or none must be in folders named for splits: cat has test and train in"
    with pytest.raises(ValueError, match=message) as error:
        arrange(["cat/train/1", "cat/test/1", "dog/1"])
    assert "dog/1 is in neither" in str(error.value)


@pytest.mark.parametrize(
    "folders",
    [
        ("valid", "invalid"),
        ("cat", "dog"),
        ("train_station", "beach"),
        ("bullet train", "car"),
        ("vehicles/train", "vehicles/car/red", "cat"),
    ],
)
def test_classes_are_no_splits(folders):
    names = [f"{folder}/{index}.png" for folder in folders for index in range(50)]
    arrangement = arrange(names)
    assert arrangement.by_hash
    assert sorted(arrangement.splits["train"] + arrangement.splits["test"]) == sorted(names)
    assert set(arrangement.splits) == {"train", "test"}
    assert not any(getattr(arrangement, field) for field in FIELDS)


def test_classes_that_might_be_splits_are_named():
    arrangement = arrange([f"{n}/{i}.png" for n in ("train2017", "val2017", "x") for i in range(9)])
    assert arrangement.by_hash
    (about,) = arrangement.remarks.values()
    assert about == ["train2017", "val2017"]


def test_what_is_beside_the_splits_is_named():
    arrangement = arrange(["train/1", "test/1", "extra/1", "0.png"])
    assert arrangement.splits == {"train": ["train/1"], "test": ["test/1"]}
    assert list(arrangement.left_out.values()) == [["0.png", "extra/1"]]


def test_two_folders_for_a_split_are_rivals():
    assert arrange(["train/1", "Train/1", "test/1"]).rivals == {"train": ["Train", "train"]}
    rivals = {"train": ["trainA", "trainB"], "test": ["testA", "testB"]}
    assert arrange(["trainA/1", "trainB/1", "testA/1", "testB/1"]).rivals == rivals


def test_a_split_within_another_is_named():
    arrangement = arrange(["up/train/a", "up/train/test/a", "up/test/a"])
    assert arrangement.splits["train"] == ["up/train/a", "up/train/test/a"]
    assert list(arrangement.remarks.values()) == [["up/train/test/a"]]


PARTS = st.sampled_from(["train", "Test", "val", "cat", "train2017", "val_2", "a"])


@given(st.lists(st.lists(PARTS, max_size=3).map("/".join), min_size=1, max_size=12))
def test_every_image_is_in_one_split_or_named_or_all_are_refused(folders):
    names = [f"{folder}/{i}".lstrip("/") for i, folder in enumerate(folders)]
    try:
        arrangement = arrange(names)
    except ValueError:
        return
    placed = [*chain(*arrangement.splits.values()), *chain(*arrangement.left_out.values())]
    assert sorted(placed) == sorted(names)
    if arrangement.by_hash:
        return
    for split, members in arrangement.splits.items():
        other = {"train": "Test", "test": "train", "val": "train"}[split]
        for name in members:  # none whose first word for a split is another's
            first = next((p for p in name.split("/")[:-1] if p in ("train", "Test", "val")), "")
            assert first != other or "_" in name.split("/")[0] or "2017" in name.split("/")[0]
