from __future__ import annotations

import ast
from pathlib import Path
from unittest.mock import Mock
from urllib.error import URLError

import numpy as np
import pytest
import torch

import vflow.data
from vflow.data import KNOWN_SOURCES, ImageSet, load_images


@pytest.mark.parametrize(
    ("spec", "split", "image_size", "message"),
    [
        ("photos", "validation", None, r"^split must be 'train', 'val', 'test', got 'validation'$"),
        ("photos", None, None, r"^split must be 'train', 'val', 'test', got None$"),
        (
            "cifar",
            "train",
            None,
            r"^data must be one of .* got 'cifar' \(did you mean cifar10\?\)$",
        ),
        ("", "train", None, r"^data must be one of photos, cifar10, .* got ''$"),
        (7, "train", None, r"^data must be the name of a data set, got 7$"),
        ("folder", "train", None, r"^data must name a path, as in folder:PATH, got 'folder'$"),
        ("npy:", "train", None, r"^data must name a path, as in npy:PATH, got 'npy:'$"),
        ("photos:x", "train", None, r"^data must be photos alone, without a path, got 'photos:x'$"),
        ("photos", "train", 0, r"^image_size must be a positive integer or HEIGHTxWIDTH, got 0$"),
        ("photos", "train", -4, r"^image_size must be a positive integer or HEIGHTxWIDTH, got -4$"),
        (
            "photos",
            "train",
            32.0,
            r"^image_size must be a positive integer or HEIGHTxWIDTH, got 32\.0$",
        ),
        (
            "photos",
            "train",
            True,
            r"^image_size must be a positive integer or HEIGHTxWIDTH, got True$",
        ),
    ],
)
def test_bad_arguments(spec, split, image_size, message):
    with pytest.raises(ValueError, match=message):
        load_images(spec, split, image_size=image_size)


@pytest.mark.parametrize("spec", ["cifar10", "imagenet32", "imagenet64", "fashion-mnist"])
def test_root_by_argument_by_environment_and_by_default(spec, tmp_path, monkeypatch):
    monkeypatch.setattr("urllib.request.urlopen", Mock(side_effect=URLError("no network")))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("VFLOW_DATA", raising=False)
    with pytest.raises(FileNotFoundError) as error:
        load_images(spec, "test")
    assert str(tmp_path / "home" / ".cache" / "vflow" / spec) in str(error.value)
    monkeypatch.setenv("VFLOW_DATA", str(tmp_path / "named"))
    with pytest.raises(FileNotFoundError) as error:
        load_images(spec, "test")
    assert str(tmp_path / "named" / spec) in str(error.value)
    with pytest.raises(FileNotFoundError) as error:
        load_images(spec, "test", root=tmp_path / "given")
    assert str(tmp_path / "given" / spec) in str(error.value)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_every_known_source_has_a_line():
    assert [*KNOWN_SOURCES] == [
        *("photos", "cifar10", "imagenet32", "imagenet64", "fashion-mnist"),
        *("folder:PATH", "npy:PATH"),
    ]
    assert all(line and "\n" not in line for line in KNOWN_SOURCES.values())


def test_image_set_has_a_length_and_moves():
    images = torch.arange(24, dtype=torch.uint8).reshape(2, 3, 2, 2)
    image_set = ImageSet(images, "some", "train")
    moved = image_set.to("meta")
    assert len(image_set) == len(moved) == 2
    assert moved.images.device.type == "meta"
    assert (moved.name, moved.split) == ("some", "train")


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(1, 3, 4, 4), r"images must be uint8, got torch\.float32"),
        (torch.zeros(3, 4, 4, dtype=torch.uint8), r"shape \[N, C, H, W\], got \(3, 4, 4\)"),
        (torch.zeros(0, 3, 4, 4, dtype=torch.uint8), r"non-empty shape .* got \(0, 3, 4, 4\)"),
        (torch.zeros(1, 4, 4, 3, dtype=torch.uint8).movedim(3, 1), r"must be contiguous"),
    ],
)
def test_image_set_rejects(images, message):
    with pytest.raises(ValueError, match=message):
        ImageSet(images, "some", "train")


def test_no_data_file_imports_pickle():
    for path in Path(vflow.data.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            assert "pickle" not in names, path


def test_images_are_writable_so_that_torch_may_share_them(tmp_path):
    np.save(tmp_path / "train.npy", np.zeros((2, 4, 4, 1), np.uint8))
    images = load_images(f"npy:{tmp_path}", "train").images
    images.fill_(1)
    assert np.load(tmp_path / "train.npy").max() == 0
