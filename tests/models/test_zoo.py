"""The trained models that come with the package."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

import vflow
from vflow.cli import main
from vflow.evaluate.evaluation import model_digest
from vflow.models import describe_trained
from vflow.models.loading import find_model
from vflow.models.zoo import FOLDER, trained_folder

NAMES = vflow.list_trained_models()
MOST_BYTES = 4_000_000


def test_there_are_some() -> None:
    assert {"cifar10-mini", "photos-mini"} <= set(NAMES)
    assert vflow.list_trained_models("no-such-*") == []


@pytest.mark.parametrize("name", NAMES)
def test_a_model_loads_samples_and_scores(name: str) -> None:
    model = vflow.load_model(name)
    assert not model.training
    images = model.sample(2, generator=torch.Generator().manual_seed(0))
    assert images.shape == (2, *model.data_shape)
    assert images.float().std() > 20
    noise = torch.randint(0, 256, images.shape, dtype=torch.uint8)
    with torch.no_grad():
        assert (model.bits_per_dim(images) < 5).all()
        assert (model.bits_per_dim(noise) > 8).all()
    same = type(model).from_pretrained(name)
    assert all(map(torch.equal, same.state_dict().values(), model.state_dict().values()))


@pytest.mark.parametrize("name", NAMES)
def test_what_a_model_reached_is_its_own(name: str) -> None:
    """The figures are those of evaluations of these very weights, and the card has them."""
    folder = FOLDER / name
    model, card = vflow.load_model(name), (folder / "README.md").read_text()
    evaluations = sorted(folder.glob("evaluation-*.json"))
    assert evaluations
    for path in evaluations:
        found = json.loads(path.read_text())
        assert found["digests"]["model"] == model_digest(model), path
        for kind in ("elbo_bits_per_dim", "bits_per_dim"):
            assert f"{found[kind]['mean']:.4f} ± {found[kind]['stderr']:.4f}" in card
    assert describe_trained(name).count("bits/dim") == len(evaluations)


@pytest.mark.parametrize("name", NAMES)
def test_a_model_is_small_and_names_no_place(name: str) -> None:
    files = [path for path in (FOLDER / name).rglob("*") if path.is_file()]
    assert (FOLDER / name / "model.safetensors").stat().st_size <= MOST_BYTES
    texts = [path.read_text() for path in files if path.suffix in (".json", ".md", ".jsonl")]
    assert not any(re.search(r"[\"' (]/(home|root|work|tmp|check)/", text) for text in texts)


def test_an_archive_finds_its_model_by_name(tmp_path: Path) -> None:
    source = torch.Generator().manual_seed(1)
    images = vflow.load_model("cifar10-mini").sample(2, generator=source).permute(0, 2, 3, 1)
    np.save(tmp_path / "images.npy", images.numpy())
    archive, back = str(tmp_path / "two.vflow"), tmp_path / "back.npy"
    flags = ["--data", f"npy:{tmp_path / 'images.npy'}", "--split", "train", "--no-verify"]
    main(["compress", "cifar10-mini", *flags, "-o", archive])
    main(["decompress", archive, "-o", str(back)])
    written = np.load(back)
    assert len(written)
    assert all(any((one == image).all() for image in images.numpy()) for one in written)


def test_a_folder_of_the_name_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    vflow.create_model("vflow-tiny").save_pretrained("cifar10-mini")
    assert vflow.load_model("cifar10-mini").data_shape == (3, 16, 16)
    assert find_model("cifar10-mini").path == Path("cifar10-mini")


def test_other_names() -> None:
    for name in ("", ".", "..", "../zoo/cifar10-mini", "cifar10-mini/", "Cifar10-mini", "x/y"):
        assert trained_folder(name) is None
    with pytest.raises(FileNotFoundError, match=r"did you mean cifar10-mini\?"):
        vflow.load_model("cifar10-mimi")
    with pytest.raises(ValueError, match="name must be one of"):
        describe_trained("cifar10-mimi")


def test_they_are_listed_before_the_presets(capsys: pytest.CaptureFixture[str]) -> None:
    main(["models"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "trained, for vflow.load_model"
    assert [line.split()[0] for line in lines[1 : 1 + len(NAMES)]] == NAMES
    assert lines[2 + len(NAMES)] == "presets, for vflow.create_model"
