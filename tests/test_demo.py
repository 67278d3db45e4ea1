"""The demonstration, in small: what it leaves, and that it goes on or finishes at once."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

import vflow
from vflow import codecs, compression
from vflow.data import load_images
from vflow.demo import ARCHIVE, DemoConfig, demo, files, table

PICTURES = ("samples.png", "side_by_side.png", "curves.png")


def test_the_whole_of_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "demo"
    config = DemoConfig(out=out, preset="vflow-tiny", steps=2, batch_size=4, images=5, samples=2)
    results = demo(config)
    assert json.loads((out / "results.json").read_text()) == results
    for name in PICTURES:
        with Image.open(out / name) as picture:
            picture.verify()
    bits = results["bits_per_dim"]
    images = load_images("photos", "test", image_size=16).images[:5]
    codec = codecs.codec_bits_per_dim(images)
    assert (bits["png"], bits["webp"]) == (codec["png"], codec["webp"])
    evaluation = json.loads(config.evaluation().results_path().read_text())
    assert bits["vflow"] == evaluation["bits_per_dim"]["mean"]
    assert (evaluation["images"], evaluation["samples"]) == (5, 2)
    text = capsys.readouterr().out
    assert table(results) in text
    assert files(results) in text
    data = (out / ARCHIVE).read_bytes()
    assert results["archive_bytes"] == len(data)
    assert f"{len(data):,}" in files(results)
    model = vflow.load_model(out / "run" / "model")
    assert torch.equal(compression.decode(model, data), images)
    assert all(name in text for name in PICTURES)
    assert vflow.load_model(out / "run" / "model").initialized

    # Again: nothing is trained or evaluated anew.
    weights = (out / "run" / "model" / "model.safetensors").read_bytes()
    metrics = (out / "run" / "metrics.jsonl").read_bytes()
    again = demo(config)
    assert again["bits_per_dim"] == bits
    assert (out / "run" / "model" / "model.safetensors").read_bytes() == weights
    assert (out / "run" / "metrics.jsonl").read_bytes() == metrics

    # On: more steps of the same run, and more samples.
    further = demo(replace(config, steps=3, samples=3))
    assert further["bits_per_dim"]["vflow"] != bits["vflow"]
    assert (out / "run" / "metrics.jsonl").read_bytes().startswith(metrics)

    # Elsewhere, on from what this one has learned.
    begun = replace(config, out=tmp_path / "on", init_from=str(out / "run"), steps=1, samples=1)
    demo(begun)
    summary = json.loads((tmp_path / "on" / "run" / "config.json").read_text())
    assert summary["init_from"] == str(out / "run")

    # Afresh: another model, and what is not the demonstration's is left alone.
    (out / "mine.txt").write_text("mine")
    anew = demo(
        DemoConfig(
            out=out, preset="flowpp-tiny", steps=1, batch_size=4, images=2, samples=1, fresh=True
        )
    )
    assert anew["parameters"] != results["parameters"]
    assert (out / "mine.txt").read_text() == "mine"


def test_the_table_marks_the_best() -> None:
    results = {
        "images": "64 images",
        "samples": 32,
        "bits_per_dim": {"png": 5.5, "webp": 4.5, "vflow_bound": 4.25, "vflow": 4.125},
    }
    lines = table(results).splitlines()
    assert "64 images" in lines[0]
    assert [line.endswith("4.125  <- best") for line in lines] == [False] * 5 + [True]
    assert len({len(line.split("<-")[0].rstrip()) for line in lines[2:]}) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, r"^steps must be an integer of at least 1, got 0$"),
        ({"images": 0}, r"^images must be an integer of at least 1, got 0$"),
        ({"samples": -1}, r"^samples must be an integer of at least 1, got -1$"),
        ({"batch_size": 1}, r"^batch_size must be an integer of at least 2, got 1$"),
        ({"preset": "vflow-demp"}, r"^preset must be one of "),
        ({"seed": -1}, r"^seed must be an integer of at least 0, got -1$"),
    ],
    ids=lambda value: (
        "-".join(f"{k}-{v}" for k, v in value.items()) if isinstance(value, dict) else ""
    ),
)
def test_bad_arguments(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DemoConfig(**{"preset": "vflow-tiny", **changes})  # type: ignore[arg-type]


def test_a_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "demo").write_text("")
    with pytest.raises(OSError, match="demo"):
        demo(DemoConfig(out=tmp_path / "demo", preset="vflow-tiny", steps=1))
    with pytest.raises(OSError, match="demo"):
        demo(DemoConfig(out=tmp_path / "demo", preset="vflow-tiny", steps=1, fresh=True))
