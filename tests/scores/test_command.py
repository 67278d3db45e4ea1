"""`vflow score` as it is typed: files, thresholds from training data alone, and refusals."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import vflow
from vflow import scores
from vflow.cli import main


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of smooth 8x8 images, those images, and grey noise of 6x6."""
    folder = tmp_path_factory.mktemp("scores")
    rng = np.random.default_rng(0)
    corners = rng.integers(0, 256, (120, 2, 2, 3))
    smooth = (corners.repeat(4, 1).repeat(4, 2) + rng.normal(0, 8, (120, 8, 8, 3))).clip(0, 255)
    np.savez(folder / "smooth.npz", train=smooth[:80].astype("u1"), test=smooth[80:].astype("u1"))
    (folder / "noise").mkdir()
    np.save(folder / "noise" / "test.npy", rng.integers(0, 256, (30, 6, 6, 1), dtype=np.uint8))
    np.save(folder / "noise" / "train.npy", rng.integers(0, 256, (30, 6, 6, 1), dtype=np.uint8))
    torch.manual_seed(0)
    model = vflow.create_model("vflow-tiny", filters=4, components=2, image_size=8)
    model.initialize(torch.from_numpy(smooth[:40].astype("u1")).permute(0, 3, 1, 2).contiguous())
    model.save_pretrained(folder / "model")
    return folder


def _score(folder: Path, out: Path, *more: str) -> dict:
    main(
        [
            *("score", str(folder / "model"), "--data", f"npy:{folder / 'noise'}", "--fit"),
            *("--out", str(out), *more),
        ]
    )
    return json.loads((out / "scores.json").read_text())


@pytest.fixture(scope="module")
def known(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, Path]:
    out = tmp_path_factory.mktemp("known") / "scores"
    data = f"npy:{folder / 'smooth.npz'}"
    options = ("--in-distribution", data, "--known-images", "80", "--false-positive-rate", "0.1")
    return _score(folder, out, *options, "--ensemble", str(folder / "model")), out


def test_noise_is_told_from_what_was_learned(known: tuple[dict, Path]):
    results, _ = known
    assert results["images"] == 30
    assert results["held_out"] == 40
    assert results["scores"]["bits_per_dim"]["auroc"] > 0.95
    assert results["scores"]["density_of_states"]["auroc"] > 0.95
    assert set(results["batch_typicality"]) == {"10"}
    assert results["scores"]["disagreement"]["mean"] == 0  # an ensemble of the same model twice


def test_every_image_has_a_row_that_says_what_the_summary_says(known: tuple[dict, Path]):
    results, out = known
    rows = list(csv.DictReader((out / "scores.csv").open()))
    assert [int(row["image"]) for row in rows] == list(range(30))
    for name, found in results["scores"].items():
        values = np.array([float(row[name]) for row in rows])
        assert values.mean() == pytest.approx(found["mean"], rel=1e-4)
        flags = [int(row[f"{name}_flagged"]) for row in rows]
        assert np.mean(flags) == pytest.approx(found["flagged"])


def test_the_pictures_can_be_opened(known: tuple[dict, Path]):
    _, out = known
    for name in ("histograms.png", "extremes.png", "bits_per_pixel.png"):
        with Image.open(out / name) as picture:
            assert min(picture.size) > 100


def test_thresholds_do_not_depend_on_what_is_scored(
    folder: Path, known: tuple[dict, Path], tmp_path: Path
):
    data = f"npy:{folder / 'smooth.npz'}"
    options = ("--in-distribution", data, "--known-images", "80", "--false-positive-rate", "0.1")
    fewer = _score(folder, tmp_path / "fewer", *options, "--images", "4")
    for name, found in fewer["scores"].items():
        assert found["threshold"] == known[0]["scores"][name]["threshold"]


def test_without_known_images_there_are_no_thresholds(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
):
    results = _score(folder, tmp_path / "alone", "--images", "3")
    assert results["scores"].keys() == {
        *("bits_per_dim", "complexity_corrected"),
        *("latent_norm", "latent_distance", "latent_autocorrelation"),
    }
    assert results["scores"]["bits_per_dim"].keys() == {"mean"}
    assert re.search(r"^bits_per_dim +\d", capsys.readouterr().out, re.MULTILINE)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (
            ["--false-positive-rate", "1"],
            "false_positive_rate must be a number above 0 and below 1",
        ),
        (["--known-images", "2"], "known_images must be an integer of at least 4"),
        (["--images", "0"], "images must be an integer of at least 1"),
        (["--complexity", "gif"], "complexity"),
    ],
)
def test_bad_arguments_are_named(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture, arguments: list[str], error: str
):
    with pytest.raises(SystemExit):
        _score(folder, tmp_path / "bad", *arguments)
    assert error in capsys.readouterr().err
    assert not (tmp_path / "bad").exists()


def test_another_shape_is_refused_with_the_way_out(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
):
    data = f"npy:{folder / 'noise'}"
    with pytest.raises(SystemExit):
        main(["score", str(folder / "model"), "--data", data, "--out", str(tmp_path / "no")])
    assert "those of" in (error := capsys.readouterr().err)
    assert "1x6x6; --fit shows grey and smaller ones" in error
    assert not (tmp_path / "no").exists()


def test_too_few_training_images_are_counted(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
):
    with pytest.raises(SystemExit):
        _score(folder, tmp_path / "few", "--in-distribution", f"npy:{folder / 'smooth.npz'}")
    assert "known_images must be at most the 80 training images" in capsys.readouterr().err


def test_the_door_is_there():
    assert set(scores.__all__) <= set(dir(scores))
