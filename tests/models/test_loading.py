"""Which parameters a path means: of a run that was trained on, of a checkpoint, of a file."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import vflow
from vflow.cli import main
from vflow.evaluate import EvaluateConfig, evaluate
from vflow.models import VFlow
from vflow.models.builders import FLOWS, FlowppSpec
from vflow.models.loading import find_model, load_image_model
from vflow.train import ModelOverrides, OptimConfig, TrainConfig, train


@pytest.fixture(scope="module")
def trained_on(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run finished at step 2 and trained on to step 5, which has not written model/ again."""
    folder = tmp_path_factory.mktemp("loading")
    images = torch.randint(0, 256, (40, 8, 8, 3), dtype=torch.uint8).numpy()
    np.save(folder / "images.npy", images)
    config = TrainConfig(
        out=folder / "run",
        preset="vflow-tiny",
        data=f"npy:{folder / 'images.npy'}",
        batch_size=4,
        steps=2,
        checkpoint_every=2,
        eval_every=0,
        sample_every=0,
        device="cpu",
        model=ModelOverrides(filters=4, components=2),
        optim=OptimConfig(warmup=0, ema=0.5),
    )
    train(config)
    shutil.copytree(config.out / "model", folder / "of-step-2")
    train(dataclasses.replace(config, steps=5))
    shutil.rmtree(config.out / "model")
    (folder / "of-step-2").rename(config.out / "model")
    return config.out


@pytest.fixture
def run(trained_on: Path, tmp_path: Path) -> Path:
    """A copy to change."""
    return Path(shutil.copytree(trained_on, tmp_path / "run"))


def checkpoint(run: Path, step: int) -> Path:
    return run / "checkpoints" / f"step-{step:08d}"


def assert_holds(model: torch.nn.Module, tensors: Path) -> None:
    expected, state = load_file(tensors), model.state_dict()
    assert expected.keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in expected.items())
    assert not model.training
    assert model.initialized


def test_of_a_run_that_was_trained_on_the_newest(run: Path) -> None:
    newest = checkpoint(run, 5)
    assert_holds(vflow.load_model(run), newest / "ema.safetensors")
    assert_holds(load_image_model(run), newest / "ema.safetensors")
    assert find_model(run).path == newest


def test_the_commands_say_which(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ["--data", f"npy:{tmp_path / 'images.npy'}"]
    np.save(tmp_path / "images.npy", np.zeros((20, 8, 8, 3), np.uint8))
    said = f"vflow: model: {checkpoint(run, 5)}, of step 5\n"
    main(["evaluate", str(run), *data])
    captured = capsys.readouterr()
    assert captured.err.count(said) == 1
    (path,) = run.glob("evaluation-*.json")
    assert path.name.endswith("-test-1-step-5.json")
    assert str(path) in captured.out
    results = json.loads(path.read_text())
    assert results["weights"] == str(checkpoint(run, 5))
    assert results["step"] == 5
    alone = EvaluateConfig(
        model=str(checkpoint(run, 5)), data=data[1], out=tmp_path / "of-the-checkpoint.json"
    )
    assert evaluate(alone)["bits_per_dim"] == results["bits_per_dim"]
    main(["sample", str(run), "-n", "2", "--out", str(tmp_path / "a.png")])
    assert said in capsys.readouterr().err
    main(["sample", str(checkpoint(run, 5)), "-n", "2", "--out", str(tmp_path / "b.png")])
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()

    # Trained on, it is another model: its evaluation neither fails nor replaces the first.
    shutil.rmtree(checkpoint(run, 5))
    main(["evaluate", str(run), *data])
    assert len(list(run.glob("evaluation-*.json"))) == 2


def test_a_finished_model_is_taken_where_nothing_newer_is_intact(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(checkpoint(run, 5))
    shutil.rmtree(checkpoint(run, 4))
    assert find_model(run).path == run / "model"
    assert find_model(run).step == 2
    # Its own checkpoint is damaged: what it says of itself still tells the step of model/.
    (checkpoint(run, 2) / "optimizer.safetensors").write_bytes(b"")
    shutil.copytree(checkpoint(run, 2), checkpoint(run, 1))
    assert find_model(run).path == run / "model"
    assert "passed over" in capsys.readouterr().err
    shutil.rmtree(run / "checkpoints")
    assert find_model(run).path == run / "model"
    assert_holds(vflow.load_model(run), run / "model" / "model.safetensors")


def test_a_damaged_checkpoint_is_passed_over(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (checkpoint(run, 5) / "ema.safetensors").write_bytes(b"")
    assert find_model(run).step == 4
    assert "step-00000005 is passed over" in capsys.readouterr().err
    shutil.rmtree(run / "model")
    for step in (2, 4):
        (checkpoint(run, step) / "state.json").write_text("{}")
    with pytest.raises(ValueError, match=r"must hold an intact checkpoint, but each of its 3 is"):
        vflow.load_model(run)


def test_every_path_of_a_run(run: Path) -> None:
    newest = checkpoint(run, 5)
    for path in (run / "checkpoints", newest, newest / "ema.safetensors", newest / "state.json"):
        assert_holds(vflow.load_model(path), newest / "ema.safetensors")
    assert_holds(vflow.load_model(newest / "model.safetensors"), newest / "model.safetensors")
    for path in (run / "model", run / "model" / "model.safetensors", run / "model" / "config.json"):
        assert_holds(vflow.load_model(str(path)), run / "model" / "model.safetensors")
    with pytest.raises(ValueError, match=r"optimizer\.safetensors is a file, and not a model"):
        vflow.load_model(newest / "optimizer.safetensors")
    with pytest.raises(FileNotFoundError, match=r"did you mean .*/run\?\)$"):
        vflow.load_model(run.parent)
    shutil.rmtree(run / "model")
    for each in (run / "checkpoints").iterdir():
        shutil.rmtree(each)
    for path in (run, run / "checkpoints"):
        with pytest.raises(FileNotFoundError, match=r"but the run has made none yet$"):
            vflow.load_model(path)
    for entry in run.iterdir():
        if entry.name != "config.json":
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    with pytest.raises(FileNotFoundError, match=r"but the run has made none yet$"):
        vflow.load_model(run)


def write_pickle(folder: Path) -> Path:
    torch.save({"weight": torch.zeros(3)}, folder / "model.pt")
    return folder / "model.pt"


def write_nameless_pickle(folder: Path) -> Path:
    (folder / "weights").write_bytes(b"\x80\x04N.")
    return folder / "weights"


def write_data(folder: Path) -> Path:
    np.save(folder / "images.npy", np.zeros(3))
    return folder / "images.npy"


def write_tensors(folder: Path) -> Path:
    save_file({"weight": torch.zeros(3)}, folder / "weights.safetensors")
    return folder / "weights.safetensors"


def write_pickle_in_folder(folder: Path) -> Path:
    write_pickle(folder)
    return folder


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda folder: folder, r"^\S+ must hold a model or a training run, but it is empty$"),
        (write_pickle, r"^model must be a folder .*model\.pt is a file, and a pickle, which is "),
        (write_nameless_pickle, r"weights is a file, and a pickle, which is never opened"),
        (write_data, r"^model must be a folder .*images\.npy is a file of data$"),
        (write_tensors, r"weights\.safetensors is a file, and not a model\.safetensors beside its"),
        (write_pickle_in_folder, r"must hold a config\.json.*; model\.pt is a pickle, which is"),
    ],
    ids=["empty", "pickle", "nameless-pickle", "data", "tensors", "pickle-in-folder"],
)
def test_paths_of_something_else(
    tmp_path: Path, write: Callable[[Path], Path], message: str
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    path = write(folder)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        vflow.load_model(path)
    assert "\n" not in str(caught.value)


def test_one_reader_of_configs(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A field that models were saved without: from a checkpoint, a folder, and whatever comes."""

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class NewSpec(FlowppSpec):
        colour: str = dataclasses.field(default="blue", metadata={"before": "grey"})

    before = load_image_model(run)
    digest = evaluate_digest(before)
    monkeypatch.setitem(FLOWS._classes, "flowpp", NewSpec)
    for path in (run, checkpoint(run, 4), checkpoint(run, 4) / "model.safetensors", run / "model"):
        model = vflow.load_model(path)
        assert model.config.flow.colour == model.config.colour == "grey"
    assert VFlow.from_pretrained(run / "model").config.colour == "grey"
    assert evaluate_digest(load_image_model(run)) == digest  # an unfinished evaluation goes on

    # A field without a "before" is one that has to be there, for a checkpoint too.
    other = dataclasses.make_dataclass(
        "OtherSpec", [("odour", str, "none")], bases=(FlowppSpec,), frozen=True, kw_only=True
    )
    monkeypatch.setitem(FLOWS._classes, "flowpp", other)
    with pytest.raises(
        ValueError, match=r"state\.json: flow: must have just the fields of OtherSpec: odour"
    ):
        vflow.load_model(run)


def evaluate_digest(model: torch.nn.Module) -> str:
    from vflow.evaluate.evaluation import model_digest

    return model_digest(model)
