"""What of the data a run asks for: sizes, channels, and the splits that there are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vflow.train import ModelOverrides, train
from vflow.train.__main__ import parse
from vflow.train.inputs import load_inputs

CPU = torch.device("cpu")


@pytest.fixture
def photos(tmp_path) -> Path:
    """A folder of 20 training and 4 validation images, 16 pixels high and 24 wide."""
    for split, count in (("Train", 20), ("valid", 4)):
        (tmp_path / "photos" / split).mkdir(parents=True)
        for index in range(count):
            pixels = np.random.default_rng(index).integers(0, 256, (16, 24, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / split / f"{index:02}.png")
    return tmp_path / "photos"


def test_without_test_images_a_run_needs_no_evaluation(photos, make_config):
    config = make_config(data=f"folder:{photos}", image_size=8, eval_every=0)
    inputs = load_inputs(config, CPU)
    assert (len(inputs.train), inputs.test) == (20, None)
    small = ModelOverrides(filters=4, components=2)
    assert (train(make_config(**{**vars(config), "steps": 2, "model": small}))).is_dir()
    with pytest.raises(ValueError, match=r"but folder:.* has train and val alone: eval_"):
        load_inputs(make_config(data=f"folder:{photos}", image_size=8), CPU)


def test_the_models_channels_are_asked_of_data_that_have_them(photos, make_config):
    changes = {"data": f"folder:{photos}", "eval_every": 0}
    for channels in (1, 2, 4):
        model = ModelOverrides(filters=4, components=2, in_channels=channels)
        inputs = load_inputs(make_config(model=model, **changes), CPU)
        assert inputs.train.shape[1] == channels
        assert "in_channels" not in inputs.shape_overrides
    assert load_inputs(make_config(**changes), CPU).train.shape[1] == 3


@pytest.mark.parametrize("size", ["8x12", (8, 12)])
@pytest.mark.parametrize("of_model", [False, True])
def test_a_size_that_is_not_square(photos, make_config, size, of_model):
    model = ModelOverrides(filters=4, components=2, image_size=size if of_model else None)
    config = make_config(
        data=f"folder:{photos}", eval_every=0, model=model, image_size=None if of_model else size
    )
    inputs = load_inputs(config, CPU)
    assert inputs.train.shape[1:] == (3, 8, 12)
    assert config.model_config(**inputs.shape_overrides).image_size == (8, 12)


@pytest.mark.parametrize(
    ("text", "size"), [("32", 32), ("32x48", (32, 48)), ("8x8", 8), ("None", None)]
)
def test_sizes_on_the_command_line(text, size):
    flags = ["--out", "x", "--image-size", text, "--model.image-size", text]
    config = parse(flags)
    assert config.image_size == config.model.image_size == size


def test_a_mapped_file_is_trained_on_like_one_in_memory(images, make_config, fingerprint, tmp_path):
    with np.load(images) as stored:
        for split in ("train", "test"):
            np.save(tmp_path / f"{split}.npy", stored[split])
    in_memory = make_config(out=tmp_path / "a", steps=4)
    mapped = make_config(out=tmp_path / "b", steps=4, data=f"npy:{tmp_path}")
    assert load_inputs(mapped, CPU).train.stride() != load_inputs(in_memory, CPU).train.stride()
    for config in (in_memory, mapped):
        train(config)
    assert fingerprint(in_memory.out)["files"] == fingerprint(mapped.out)["files"]
