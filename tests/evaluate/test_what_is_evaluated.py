"""What an evaluation can be given, and where its results go."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import vflow
from tests.evaluate.small import numbers
from vflow.data import images_of_shape
from vflow.evaluate import EvaluateConfig, evaluate
from vflow.models.loading import load_image_model
from vflow.train import ModelOverrides, TrainConfig, train


def test_a_training_run(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    data = f"npy:{folder / 'data'}"
    config = TrainConfig(
        out=run,
        preset="vflow-tiny",
        data=data,
        batch_size=4,
        steps=3,
        checkpoint_every=2,
        eval_every=0,
        sample_every=0,
        device="cpu",
        model=ModelOverrides(filters=4, components=2),
    )
    train(config)
    evaluation_config = EvaluateConfig(model=str(run), data=data)
    finished = evaluate(evaluation_config)
    assert evaluation_config.results_path(3).parent == run
    assert evaluation_config.results_path(3).is_file()
    model = load_image_model(run)

    (run / "model").rename(tmp_path / "model")
    unfinished = evaluate(replace(evaluation_config, restart=True))
    assert numbers(unfinished) == numbers(finished)

    newest = run / "checkpoints" / "step-00000003" / "ema.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1])
    capsys.readouterr()
    before = load_image_model(run)
    assert "step-00000003 is passed over" in capsys.readouterr().err
    assert any(
        not torch.equal(a, b) for a, b in zip(before.parameters(), model.parameters(), strict=True)
    )
    assert before.initialized
    assert not before.training

    for checkpoint in (run / "checkpoints").iterdir():
        for file in checkpoint.iterdir():
            file.unlink()
        checkpoint.rmdir()
    with pytest.raises(FileNotFoundError, match=r"must hold a finished model or a checkpoint"):
        load_image_model(run)


def test_the_default_place_of_results(tmp_path: Path) -> None:
    data = "folder:/some/where"
    model = tmp_path / "model"
    model.mkdir()
    beside = EvaluateConfig(model=str(model), data=data, samples=3)
    assert beside.results_path() == model / "evaluation-folder-some-where-test-3.json"
    hub = EvaluateConfig(model="someone/model", data="photos", split="train")
    assert hub.results_path() == Path("someone-model/evaluation-photos-train-1.json")


def test_validation_images_in_the_models_size_and_channels(tmp_path: Path) -> None:
    config = {"filters": 4, "components": 2, "in_channels": 1, "image_size": (8, 12)}
    model = vflow.create_model("vflow-tiny", **config)
    model.initialize(torch.randint(0, 256, (8, 1, 8, 12), dtype=torch.uint8))
    model.save_pretrained(tmp_path / "model")
    for name, count in (("Train", 5), ("valid", 3)):
        (tmp_path / "images" / name).mkdir(parents=True)
        for index in range(count):
            pixels = np.random.default_rng(index).integers(0, 256, (16, 24, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / name / f"{index}.png")
    data = f"folder:{tmp_path / 'images'}"
    assert images_of_shape(data, "val", load_image_model(tmp_path / "model").data_shape).shape == (
        3,
        1,
        8,
        12,
    )
    evaluation = EvaluateConfig(model=str(tmp_path / "model"), data=data, split="val")
    assert evaluate(evaluation)["images"] == 3
    with pytest.raises(FileNotFoundError, match=r"has no test images, only those of train and val"):
        evaluate(replace(evaluation, split="test"))
