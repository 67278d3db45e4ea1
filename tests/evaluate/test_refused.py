"""What an evaluation refuses, in one line, with nothing written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import vflow
from vflow.evaluate import EvaluateConfig, evaluate
from vflow.models.loading import load_image_model
from vflow.runtime.console import RunStopped


def test_results_of_another_evaluation_are_not_mixed_in(
    make_config: Callable[..., EvaluateConfig], folder: Path
) -> None:
    evaluate(make_config(images=2))
    before = make_config().results_path().read_bytes()
    with pytest.raises(
        ValueError, match=r"is of samples 5, seed 0, got samples 6, seed 2; --restart replaces it$"
    ):
        evaluate(make_config(samples=6, seed=2))
    with pytest.raises(ValueError, match=r"is of split test, images \w{12}, got split train"):
        evaluate(make_config(split="train"))
    assert make_config().results_path().read_bytes() == before
    results = evaluate(make_config(samples=6, images=2, restart=True))
    assert results["samples"] == 6

    progress = make_config().results_path().with_name("results.images.jsonl")
    progress.write_text("nonsense\n")
    with pytest.raises(ValueError, match=r"must begin with the fingerprint .* --restart"):
        evaluate(make_config())


def test_a_diverged_model_is_named(
    make_config: Callable[..., EvaluateConfig], folder: Path, tmp_path: Path
) -> None:
    model = vflow.load_model(folder / "model")
    with torch.no_grad():
        next(model.parameters()).fill_(1e30)
    model.save_pretrained(tmp_path / "diverged")
    config = make_config(model=str(tmp_path / "diverged"))
    with pytest.raises(
        RunStopped, match=r"^log P must be finite, got (nan|-inf) for image 0 of npy:"
    ):
        evaluate(config)
    assert not config.results_path().exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"samples": 0}, r"^samples must be an integer of at least 1, got 0$"),
        ({"samples": 1.5}, r"^samples must be an integer of at least 1, got 1\.5$"),
        ({"images": 0}, r"^images must be an integer of at least 1, got 0$"),
        ({"images": 8}, r"^images must be at most the 7 test images of .*, got 8$"),
        ({"max_rows": 0}, r"^max_rows must be an integer of at least 1, got 0$"),
        ({"seed": -1}, r"^seed must be an integer of at least 0, got -1$"),
        ({"seed": 1 << 63}, r"^seed must be below 2\^63, got 9223372036854775808$"),
        ({"split": "validation"}, r"^split must be one of train, val, test, got 'validation'$"),
        ({"precision": "fp16"}, r"^precision must be one of fp32, bf16, got 'fp16'$"),
        ({"device": "tpu"}, r"^device must be one of auto, cpu, cuda, got 'tpu'$"),
        ({"data": "photographs"}, r"^data must be one of photos, .* got 'photographs'"),
        ({"data": "npy:none.npy"}, r"none\.npy"),
        ({"data": "npy:{folder}/large.npy"}, r"^data must hold 3x8x8 images .* are 3x12x12$"),
        ({"data": "npy:{folder}/empty.npy"}, r"empty\.npy"),
        ({"data": "npy:{folder}/floats.npy"}, r"uint8"),
        ({"out": "{folder}"}, r"^out must end in \.json, got "),
        ({"out": "{folder}/folder.json"}, r"^out must be a file, but .* is a folder$"),
        ({"out": "{folder}/file/out.json"}, r"^out must be in a folder, but .*file is a file$"),
        ({"out": "/proc/out.json"}, r"^out must be in a writable folder, but /proc is not: "),
    ],
    ids=lambda value: (
        next(iter(f"{k}-{v}" for k, v in value.items())) if isinstance(value, dict) else ""
    ),
)
def test_bad_arguments(
    make_config: Callable[..., EvaluateConfig],
    tmp_path: Path,
    changes: dict[str, Any],
    message: str,
) -> None:
    folder = tmp_path / "inputs"
    folder.mkdir()
    np.save(folder / "large.npy", np.zeros((20, 12, 12, 3), np.uint8))
    np.save(folder / "empty.npy", np.zeros((0, 8, 8, 3), np.uint8))
    np.save(folder / "floats.npy", np.zeros((20, 8, 8, 3)))
    (folder / "file").write_text("")
    (folder / "folder.json").mkdir()
    changes = {
        key: value.format(folder=folder) if isinstance(value, str) else value
        for key, value in changes.items()
    }
    if "out" in changes:
        changes["out"] = Path(changes["out"])
    with pytest.raises((ValueError, OSError), match=message) as caught:
        evaluate(make_config(**changes))
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("results*"))


def break_model(folder: Path, kind: str) -> str:
    """Spoil a copy of a model; what the error must say."""
    config, weights = folder / "config.json", folder / "model.safetensors"
    if kind == "no config":
        config.unlink()
        return r"must hold a config\.json"
    if kind == "no weights":
        weights.unlink()
        return r"must hold a model\.safetensors"
    if kind == "torch weights instead":
        torch.save({}, folder / "pytorch_model.bin")
        weights.unlink()
        return r"must hold a model\.safetensors"
    if kind == "corrupt config":
        config.write_text(config.read_text()[:40])
        return r"config\.json must be a JSON file, but it does not parse"
    if kind == "config of something else":
        config.write_text("[1, 2]")
        return r"config\.json must be a JSON object"
    if kind == "unknown class":
        config.write_text('{"model": "VGG", "filters": 8}')
        return r"config\.json must name a model of .*, got 'VGG'"
    if kind == "unknown kind":
        config.write_text(config.read_text().replace('"flowpp"', '"VGG"'))
        return r"config\.json: flow: flow kind must be one of .*, got 'VGG'"
    if kind == "unknown field":
        config.write_text(config.read_text().replace('"filters"', '"filtres"'))
        return r"filtres"
    if kind == "value out of range":
        config.write_text(config.read_text().replace('"heads": 2', '"heads": 0'))
        return r"config\.json: .*heads must be an integer of at least 1, got 0"
    if kind == "weights of another size":
        config.write_text(config.read_text().replace('"blocks": 1', '"blocks": 2', 1))
        return r"model\.safetensors must hold the tensors of its config"
    if kind == "truncated weights":
        weights.write_bytes(weights.read_bytes()[:-100])
        return r"model\.safetensors must be a whole safetensors file"
    if kind == "empty weights":
        weights.write_bytes(b"")
        return r"model\.safetensors must be a whole safetensors file"
    if kind == "pickle":
        torch.save({"weight": torch.zeros(3)}, weights)
        return r"model\.safetensors must be a whole safetensors file \(never a pickle\)"
    assert kind == "vectors"
    for file in folder.iterdir():
        file.unlink()
    vflow.Glow(vflow.models.GlowConfig()).save_pretrained(folder)
    return r"^model must be one of images, but .* is a Glow$"


@pytest.mark.parametrize(
    "kind",
    [
        *("no config", "no weights", "torch weights instead", "corrupt config", "vectors"),
        *(
            "config of something else",
            "unknown class",
            "unknown kind",
            "unknown field",
            "value out of range",
        ),
        *("weights of another size", "truncated weights", "empty weights", "pickle"),
    ],
)
def test_broken_models(folder: Path, tmp_path: Path, kind: str) -> None:
    vflow.load_model(folder / "model").save_pretrained(tmp_path / "model")
    message = break_model(tmp_path / "model", kind)
    with pytest.raises((ValueError, OSError), match=message) as caught:
        load_image_model(tmp_path / "model")
    assert "\n" not in str(caught.value)


def test_models_that_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError, match=r"none"):
        load_image_model(tmp_path / "none")
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"^model must be a folder or .*file is a file$"):
        load_image_model(tmp_path / "file")
