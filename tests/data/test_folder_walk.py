from __future__ import annotations

import os
import warnings
from pathlib import Path

import pytest
from PIL import Image

from vflow.data import folder, load_images, splits
from vflow.data.folder_walk import SUFFIXES, walk


def write(path: Path, value: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (4, 4), value).save(path, format="PNG")


def test_linked_folders_and_files_are_followed(tmp_path):
    for index in range(3):
        write(tmp_path / f"store/cat/{index}.png")
    write(tmp_path / "store/one.png")
    write(tmp_path / "set/dog/0.png")
    (tmp_path / "set/cat").symlink_to(tmp_path / "store/cat")
    (tmp_path / "set/single.png").symlink_to("../store/one.png")
    found = walk(tmp_path / "set")
    assert sorted(found.files) == ["cat/0.png", "cat/1.png", "cat/2.png", "dog/0.png", "single.png"]
    assert not found.left_out
    assert sorted(walk(tmp_path / "set/cat").files) == ["0.png", "1.png", "2.png"]  # itself a link


def test_half_of_the_images_behind_a_link(tmp_path):
    for index in range(100):
        write(tmp_path / f"store/cat/{index}.png")
        write(tmp_path / f"set/dog/{index}.png")
    (tmp_path / "set/cat").symlink_to(tmp_path / "store/cat")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sets = [load_images(f"folder:{tmp_path}/set", s, image_size=4) for s in ("train", "test")]
    assert sum(map(len, sets)) == 200


def test_loops_and_links_to_what_is_there_are_named_and_taken_once(tmp_path):
    write(tmp_path / "set/a/b/0.png")
    (tmp_path / "set/a/b/loop").symlink_to("..")
    (tmp_path / "set/a/up").symlink_to(tmp_path)
    (tmp_path / "set/a/root").symlink_to(tmp_path / "set")
    (tmp_path / "set/a/copy.png").symlink_to("b/0.png")
    (tmp_path / "set/a/self").symlink_to("self")
    (tmp_path / "set/a/gone.png").symlink_to("nowhere")
    write(tmp_path / "beside.png")  # what a link to the folder above would bring in
    found = walk(tmp_path / "set")
    assert list(found.files) == ["a/b/0.png"]
    assert dict(found.left_out) == {
        "broken links": ["a/gone.png", "a/self"],
        "links to what is there by another name": ["a/b/loop", "a/copy.png", "a/root", "a/up"],
    }


def test_links_lead_no_image_of_a_split_into_another(tmp_path):
    for index in range(3):
        write(tmp_path / f"test/{index}.png", 200)
    write(tmp_path / "train/0.png", 100)
    (tmp_path / "train/more").symlink_to("../test")
    (tmp_path / "train/one.png").symlink_to("../test/1.png")
    (tmp_path / "train/all").symlink_to("..")
    with pytest.warns(folder.FolderWarning, match=r"left out 3 links to what is there by another"):
        train = load_images(f"folder:{tmp_path}", "train", image_size=4).images
    assert train.unique().tolist() == [100]
    assert splits(f"folder:{tmp_path}") == ("train", "test")


def test_every_suffix_in_small_and_in_capitals(tmp_path):
    names = [f"{i}{s}" for i, s in enumerate([*SUFFIXES, *map(str.upper, SUFFIXES)])]
    for name in [*names, ".hidden.png", ".cache/x.png", "notes.txt", "labels.csv"]:
        write(tmp_path / name)
    assert {".avif", ".bmp", ".gif", ".jfif", ".ppm", ".tif", ".webp"} <= set(SUFFIXES)
    assert sorted(walk(tmp_path).files) == sorted(names)
    assert not walk(tmp_path).left_out


def test_images_of_kinds_that_are_not_read_are_named(tmp_path):
    write(tmp_path / "a.png")
    for name in ("b.HEIC", "c.jp2", "d.svg"):
        (tmp_path / name).touch()
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.warns(folder.FolderWarning) as caught:
        images = load_images(f"folder:{tmp_path}", only_split(tmp_path), image_size=4).images
    assert len(images) == 1
    texts = sorted(str(warning.message) for warning in caught)
    assert texts == [
        f"{tmp_path}: left out 1 names of images that are no files: pipe.png",
        f"{tmp_path}: left out 3 files of kinds that are not read: b.HEIC; c.jp2; d.svg",
    ]
    assert all(Path(warning.filename).name == "test_folder_walk.py" for warning in caught)


def only_split(path: Path) -> str:
    (split,) = splits(f"folder:{path}")
    return split


def test_a_folder_named_like_an_image(tmp_path):
    write(tmp_path / "x.png/y.png")
    assert list(walk(tmp_path).files) == ["x.png/y.png"]
