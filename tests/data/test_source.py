"""A data set is one registration, and what a user may write for it."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vflow.data import KNOWN_SOURCES, Source, data_help, find_source, load_images, register, splits
from vflow.data.source import SOURCES
from vflow.data.spec import parse_spec


@pytest.fixture
def made_up():
    def load(request):
        count = {"train": 5, "val": 2, "test": 3}[request.split]
        return np.full((count, request.channels, *request.size), 7, np.uint8)

    yield register(
        Source(
            name="made-up",
            help="sevens",
            load=load,
            splits=lambda request: ("train", "val"),
            sizes=((4, 4), (4, 8)),
            channels=(1, 3),
        )
    )
    del SOURCES["made-up"], KNOWN_SOURCES["made-up"]


def test_a_data_set_registers_in_one_call(made_up):
    assert load_images("made-up", "train").images.shape == (5, 1, 4, 4)
    assert load_images("made-up", "val", image_size="4x8", channels=3).images.shape == (2, 3, 4, 8)
    assert splits("made-up") == ("train", "val")
    assert "made-up" in data_help()
    assert list(KNOWN_SOURCES)[-3:] == ["made-up", "folder:PATH", "npy:PATH"]
    with pytest.raises(FileNotFoundError, match=r"^made-up has no test images, only those of tr"):
        load_images("made-up", "test")
    with pytest.raises(ValueError, match=r"^image_size must be 4 or 4x8 for made-up, got 8x4$"):
        load_images("made-up", "train", image_size=(8, 4))
    with pytest.raises(ValueError, match=r"did you mean made-up\?"):
        load_images("madeup", "train")
    with pytest.raises(ValueError, match=r"^name must be that of no other data set, got 'made-up'"):
        register(made_up)


def test_help_names_all_that_there_is():
    assert data_help() == (
        "Data set: photos, cifar10, imagenet32, imagenet64, fashion-mnist, folder:PATH or "
        "npy:PATH; or the path of a folder, .npy or .npz."
    )


@pytest.mark.parametrize(
    ("typo", "meant"),
    [
        ("photo", "photos"),
        ("CIFAR10", "cifar10"),
        ("cifar-10", "cifar10"),
        ("imagenet-32", "imagenet32"),
        ("fashion_mnist", "fashion-mnist"),
        ("FashionMNIST", "fashion-mnist"),
        ("foldr:x", "folder"),
        ("Folder:x", "folder"),
    ],
)
def test_typos(typo, meant):
    with pytest.raises(ValueError, match=rf"^data must be one of .*\(did you mean .*{meant}"):
        find_source(typo)


def image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (4, 4), 9).save(path)


@pytest.mark.parametrize("name", ["cats", "my cats", "K\u00e4tzchen \u732b", "a:b", "100%"])
@pytest.mark.parametrize("form", ["folder:{}", "folder:{}/", "folder:{}//", "{}", "{}/"])
def test_paths_of_folders(tmp_path, monkeypatch, name, form):
    image(tmp_path / name / "train" / "1.png")
    monkeypatch.chdir(tmp_path)
    specs = [form.format(path) for path in (tmp_path / name, f"./{name}", name)]
    if name == "a:b" and not form.startswith("folder"):
        specs = []  # without a source before it, "a" would be one
    for spec in specs:
        assert load_images(spec, "train").images.unique().tolist() == [9]


def test_paths_of_arrays(tmp_path, monkeypatch):
    np.save(tmp_path / "train.npy", np.full((2, 4, 4, 3), 3, np.uint8))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    specs = ["train.npy", "./train.npy", f"{tmp_path}/train.npy", "~/train.npy", "npy:~/train.npy"]
    for spec in specs:
        assert len(load_images(spec, "train")) == 1
    for spec in (str(tmp_path), ".", "~", "{split}.npy"):  # a folder of arrays, not of images
        assert len(load_images(spec, "train")) == 2


def test_a_name_comes_before_a_folder_of_that_name(tmp_path, monkeypatch):
    (tmp_path / "photos").mkdir()
    monkeypatch.chdir(tmp_path)
    assert find_source("photos").name == "photos"
    assert find_source("./photos").name == "folder"


@pytest.mark.parametrize(
    "spec", ["./none", "/none/there", "none.npy", "~/none", "C:\\data\\cats", "D:/data", "a\\b"]
)
def test_paths_where_nothing_is(spec, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"^data must be there, but there is nothing at "):
        find_source(spec)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("folder:", r"^data must name a path, as in folder:PATH, got 'folder:'$"),
        ("folder:  ", r"^data must name a path, as in folder:PATH, got 'folder:  '$"),
        ("folder:a\0b", r"^a path must hold no null character, got 'a\\x00b'$"),
        ("folder:~nobody-of-that-name/x", r"must begin with the home of a user here"),
        ("  ", r"^data must be one of "),
    ],
)
def test_what_is_no_path(spec, message):
    with pytest.raises(ValueError, match=message):
        find_source(spec)


def test_a_file_of_another_kind(tmp_path):
    (tmp_path / "x.zip").touch()
    with pytest.raises(ValueError, match=r"^data must be a folder, a \.npy or a \.npz file, but "):
        find_source(f"{tmp_path}/x.zip")


def test_windows_paths_after_a_source():
    source, path = parse_spec("folder:C:\\data\\cats")
    assert (source.name, os.fspath(path)) == ("folder", "C:\\data\\cats")
