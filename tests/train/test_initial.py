"""A run that begins with the weights of another model."""

from __future__ import annotations

import dataclasses
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import vflow
from vflow.io.checkpoint import list_steps, open_checkpoint
from vflow.models.classes import make_model
from vflow.runtime.distributed import Ranks
from vflow.train import ModelOverrides, train
from vflow.train.initial import read_weights
from vflow.train.inputs import load_inputs
from vflow.train.trainer import Trainer

CPU = torch.device("cpu")


def config_of(source):
    return vflow.load_model(source).config


@pytest.fixture
def checkpoint(whole_run):
    steps = list_steps(whole_run / "checkpoints")
    return steps[max(steps)]


@pytest.mark.parametrize("kind", ["run", "unfinished", "model", "checkpoint"])
def test_weights_of_a_run_a_model_and_a_checkpoint_are_its_averages(
    whole_run, checkpoint, tmp_path, kind
):
    sources = {"run": whole_run, "model": whole_run / "model", "checkpoint": checkpoint}
    if kind == "unfinished":
        sources[kind] = tmp_path / "run"
        shutil.copytree(whole_run / "checkpoints", tmp_path / "run" / "checkpoints")
    expected = load_file(checkpoint / "ema.safetensors")
    weights = read_weights(str(sources[kind]), config_of(sources["model"]))
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


def test_begins_with_the_weights_and_everything_else_anew(make_config, whole_run, monkeypatch):
    config = make_config(init_from=str(whole_run), seed=5)
    trainer = Trainer(config, load_inputs(config, CPU), Ranks(), CPU)
    weights = read_weights(str(whole_run), config_of(whole_run))
    weights["_initialized"] = torch.tensor(False)  # an average saved so is trained all the same
    monkeypatch.setattr(trainer, "_initialize", None)
    trainer.begin(None, weights)
    assert trainer.model.initialized
    for module in (trainer.model, trainer.averaged_model):
        for name, value in module.named_parameters():
            assert torch.equal(value, weights[name])
    assert trainer.step == 0
    assert trainer.optimizer.tensors() == {}


def test_a_run_begun_with_weights_goes_on_without_them(
    make_config, whole_run, tmp_path, fingerprint, capsys
):
    source = tmp_path / "source"
    shutil.copytree(whole_run / "model", source)
    other = {"seed": 1, "init_from": str(source)}
    train(make_config(out=tmp_path / "whole", **other))
    assert f"starting from {source}" in capsys.readouterr().out
    train(make_config(out=tmp_path / "halved", steps=4, eval_every=6, **other))
    moved = tmp_path / "moved"
    source.rename(moved)
    train(make_config(out=tmp_path / "halved", steps=8, **other))  # not looked for any more
    train(make_config(out=tmp_path / "halved", seed=1))
    ours, theirs = (fingerprint(tmp_path / name)["files"] for name in ("halved", "whole"))
    assert ours == theirs
    train(make_config(out=tmp_path / "halved", seed=1, init_from=str(moved)))  # the same weights

    changed = vflow.load_model(moved)
    with torch.no_grad():
        next(changed.parameters()).add_(1)
    changed.save_pretrained(tmp_path / "changed")
    with pytest.raises(ValueError, match=r"begun with those of .*source, and those of .*changed"):
        train(make_config(out=tmp_path / "halved", seed=1, init_from=str(tmp_path / "changed")))
    shutil.copytree(whole_run, tmp_path / "run")
    with pytest.raises(ValueError, match="it was begun without any, and those of"):
        train(make_config(init_from=str(moved)))


def test_weights_of_another_shape_are_named_and_nothing_is_written(make_config, whole_run):
    model = ModelOverrides(filters=6, components=2)
    config = make_config(init_from=str(whole_run), model=model)
    with pytest.raises(
        ValueError, match=r"^init_from must .* differ: density\.deq\S+ is \(8, 4, 4\) "
    ) as caught:
        train(config)
    assert "\n" not in str(caught.value)
    assert not config.out.exists()


def test_weights_that_cannot_be_had(make_config, whole_run, tmp_path):
    empty = tmp_path / "young"
    empty.mkdir()
    (empty / "metrics.jsonl").write_text("")
    damaged = tmp_path / "damaged"
    shutil.copytree(whole_run / "model", damaged)
    (damaged / "model.safetensors").write_bytes(b"nonsense")
    infinite = tmp_path / "infinite"
    shutil.copytree(whole_run / "model", infinite)
    tensors = load_file(infinite / "model.safetensors")
    name = next(name for name, value in tensors.items() if value.is_floating_point())
    tensors[name] = torch.full_like(tensors[name], np.inf)
    save_file(tensors, infinite / "model.safetensors")
    for source, message in (
        (empty, "young must hold a finished model or a checkpoint, but the run has made none yet"),
        (damaged, "damaged/model.safetensors must be a whole safetensors file"),
        (infinite, "infinite/model.safetensors must hold finite numbers"),
        (whole_run / "samples" / "none", "none"),
    ):
        config = make_config(init_from=str(source))
        with pytest.raises((ValueError, OSError), match=message):
            train(config)
        assert not config.out.exists()


def test_checkpoint_of_such_a_run_names_its_source(make_config, whole_run):
    config = make_config(init_from=str(whole_run), steps=1, eval_every=0)
    train(config)
    fixed = open_checkpoint(list_steps(config.out / "checkpoints")[1]).state["fixed"]
    assert fixed["init_from"] == str(whole_run)
    assert fixed["initial weights"].startswith("sha256:")


def test_narrower_networks_are_widened(make_config, whole_run, tmp_path, capsys):
    narrow = vflow.load_model(whole_run)
    filters = 2 * narrow.config.flow.filters
    model = dataclasses.replace(make_config().model, filters=filters)
    wide = tmp_path / "wide"
    train(make_config(out=wide, init_from=str(whole_run), model=model, steps=1, seed=3))
    assert f"the networks of {whole_run} are widened 2 times" in capsys.readouterr().out
    assert vflow.load_model(wide).config.flow.filters == filters

    weights = read_weights(str(whole_run), config_of(wide), tell=False)
    begun = make_model(config_of(wide))
    begun.load_state_dict(weights)
    images = torch.randint(0, 256, (4, *begun.data_shape), dtype=torch.uint8)
    noise = begun.draw_noise(4)
    ours, theirs = begun.eval().elbo(images, **noise), narrow.elbo(images, **noise)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=0)
