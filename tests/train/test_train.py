from __future__ import annotations

import json
import math
import platform
import re
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import vflow
from vflow.cli import main as command
from vflow.io.checkpoint import list_steps
from vflow.models import ImageFlow
from vflow.report.command import train_command
from vflow.runtime.console import RunStopped
from vflow.runtime.distributed import Ranks
from vflow.runtime.randomness import Stream, generator
from vflow.train import ModelOverrides, OptimConfig, train
from vflow.train.evaluation import mean_bits_per_dim
from vflow.train.inputs import load_inputs
from vflow.train.trainer import Trainer

CPU = torch.device("cpu")


def _records(run, kind):
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if record["kind"] == kind]


def _trainer(config) -> Trainer:
    trainer = Trainer(config, load_inputs(config, CPU), Ranks(), CPU)
    trainer.begin(None)
    return trainer


def test_whole_run_leaves_what_it_should(whole_run, make_config):
    names = {path.name for path in whole_run.iterdir()}
    assert names >= {"config.json", "metrics.jsonl", "tensorboard", "checkpoints", "model"}
    assert list(list_steps(whole_run / "checkpoints")) == [4, 8, 12]
    trained, evaluated = _records(whole_run, "train"), _records(whole_run, "eval")
    assert [record["step"] for record in trained] == [2, 4, 6, 8, 10, 12]
    assert [record["step"] for record in evaluated] == [6, 12]
    assert trained[-1]["bits_per_dim"] < trained[0]["bits_per_dim"]
    assert [record["lr"] for record in trained[:2]] == [0.0006, 0.0012]
    for record in trained + evaluated:
        assert all(math.isfinite(v) for v in record.values() if isinstance(v, float))
    assert any((whole_run / "tensorboard").iterdir())
    config = json.loads((whole_run / "config.json").read_text())
    assert config == {**make_config().to_json(), "out": str(whole_run)}


def test_finished_model_holds_the_averaged_parameters(whole_run, make_config):
    model = vflow.load_model(whole_run / "model")
    newest = max((whole_run / "checkpoints").iterdir())
    averaged, last = load_file(newest / "ema.safetensors"), load_file(newest / "model.safetensors")
    for name, value in model.state_dict().items():
        assert torch.equal(value, averaged[name])
    assert any(not torch.equal(averaged[name], last[name]) for name in last)
    images = load_inputs(make_config(), CPU).test
    expected = _records(whole_run, "eval")[-1]
    bits = mean_bits_per_dim(model, images, 8, 0, Ranks(), lambda: False)
    assert bits == {"mean": expected["bits_per_dim"], "stderr": expected["stderr"]}
    assert expected["images"] == len(images)


def test_the_standard_error_is_that_of_the_images(whole_run, make_config):
    model = vflow.load_model(whole_run / "model")
    images = load_inputs(make_config(), CPU).test[:8]
    noise = generator(CPU, 0, Stream.EVALUATION, 0)
    with torch.no_grad():
        elbo = model(images, **model.draw_training_noise(len(images), noise))
    each = model.to_bits_per_dim(elbo).double()
    found = mean_bits_per_dim(model, images, 8, 0, Ranks(), lambda: False)
    assert found["mean"] == pytest.approx(each.mean().item(), rel=1e-12)
    assert found["stderr"] == pytest.approx(each.std().item() / len(images) ** 0.5, rel=1e-9)
    assert mean_bits_per_dim(model, images[:1], 8, 0, Ranks(), lambda: False)["stderr"] is None


def test_a_finished_run_leaves_a_whole_card(whole_run):
    """As `vflow publish` writes it: data, recipe, command, pictures, bound, versions."""
    folder = whole_run / "model"
    names = {path.name for path in folder.iterdir()}
    assert names == {"README.md", "config.json", "curves.png", "model.safetensors", "samples.png"}
    card = (folder / "README.md").read_text()
    config = json.loads((whole_run / "config.json").read_text())
    last = _records(whole_run, "eval")[-1]
    bound = f"{last['bits_per_dim']:.4f} ± {last['stderr']:.4f}"
    assert f"| {config['data']}, test | {last['images']} | 1 | {bound} | - |" in card
    assert train_command(config) in card
    assert f"{config['steps']} steps of {config['batch_size']} images" in card
    assert f"Written by vflow {vflow.__version__}" in card
    assert (
        f"trained with PyTorch {torch.__version__} and Python {platform.python_version()}" in card
    )
    for name in ("curves.png", "samples.png"):
        assert f"]({name})" in card
        with Image.open(folder / name) as picture:
            assert min(picture.size) > 100


def test_a_card_without_an_evaluation_says_so(make_config):
    folder = train(make_config(eval_every=0, steps=1))
    assert "It has not been evaluated" in (folder / "README.md").read_text()


def test_finished_run_says_so(whole_run, make_config, capsys, tmp_path, fingerprint):
    shutil.copytree(whole_run, tmp_path / "run")
    train(make_config())
    assert "finished" in capsys.readouterr().out
    assert fingerprint(tmp_path / "run") == fingerprint(whole_run)


def test_metrics_are_means_over_the_steps_between(make_config):
    config = make_config(steps=6, log_every=3, eval_every=0)
    train(config)
    trainer = _trainer(make_config(steps=6, out=config.out / "unused"))
    bits = []
    for _ in range(6):
        trainer.take_step(lambda: False)
        ((_, outcome),) = trainer.outcomes(True)
        bits.append(outcome[0])
    first, second = _records(config.out, "train")
    assert first["bits_per_dim"] == sum(bits[:3]) / 3
    assert second["bits_per_dim"] == sum(bits[3:]) / 3


def test_begins_with_data_dependent_initialisation(make_config):
    trainer = _trainer(make_config())
    assert trainer.model.initialized
    assert trainer.averaged_model.initialized
    for mine, averaged in zip(
        trainer.model.parameters(), trainer.averaged_model.parameters(), strict=True
    ):
        assert torch.equal(mine, averaged)
    order = trainer.order.indices(0)
    reference = vflow.create_model("flowpp-tiny", filters=4, components=2, image_size=8)
    torch.manual_seed(0)
    reference.load_state_dict(_uninitialised(trainer))
    reference.initialize(trainer.images[order], **trainer._noise(0))
    for mine, theirs in zip(trainer.model.parameters(), reference.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def _uninitialised(trainer: Trainer) -> dict[str, torch.Tensor]:
    return Trainer(
        trainer.config, load_inputs(trainer.config, CPU), Ranks(), CPU
    ).model.state_dict()


@pytest.mark.parametrize("stop", [4, 5])
def test_going_on_from_fewer_steps_is_bit_identical(make_config, whole_run, fingerprint, stop):
    config = make_config(steps=stop, log_every=2, eval_every=0)
    train(config)
    train(make_config(keep=3))
    ours, theirs = fingerprint(config.out), fingerprint(whole_run)
    # A shorter run logs its last step, whatever log_every says; the longer one goes on from there.
    if stop % 2 == 0:
        assert ours == theirs
    assert ours["files"] == theirs["files"]


def test_run_goes_on_past_a_damaged_checkpoint(make_config, whole_run, fingerprint, capsys):
    config = make_config()
    shutil.copytree(whole_run, config.out)
    weights = config.out / "checkpoints" / "step-00000012" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    train(config)
    assert str(weights) in capsys.readouterr().err
    assert fingerprint(config.out) == fingerprint(whole_run)


def test_torn_metrics_and_leftovers_are_cleared(make_config, whole_run, fingerprint):
    config = make_config()
    shutil.copytree(whole_run, config.out)
    shutil.rmtree(config.out / "checkpoints" / "step-00000012")
    shutil.rmtree(config.out / "model")
    (config.out / "checkpoints" / ".tmp-step-00000012").mkdir()
    with open(config.out / "metrics.jsonl", "a") as file:
        file.write('{"step": 13, "kind": "tra')
    train(config)
    assert fingerprint(config.out) == fingerprint(whole_run)
    assert not list(config.out.rglob(".tmp-*"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 1}, "run: seed was 0 and is 1; use another --out"),
        ({"seed": 1, "resume_with_changes": True}, "run: seed was 0 and is 1; use another --out"),
        ({"batch_size": 4}, "batch_size was 8 and is 4; use another --out, or --resume-with-ch"),
        ({"preset": "vflow-tiny"}, "preset was flowpp-tiny and is vflow-tiny; use another --out"),
        ({"precision": "bf16"}, "precision was fp32 and is bf16; use"),
        ({"flip": True}, "flip was False and is True; use"),
        ({"optim": OptimConfig(warmup=5, ema=0.9)}, "optim.warmup was 4 and is 5; use"),
        (
            {"model": ModelOverrides(filters=8, components=2)},
            "model.flow.filters was 4 and is 8",
        ),
        ({"steps": 11}, "steps must be at least the 12 the run has taken, got 11"),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else "",
)
def test_changed_run_is_refused(make_config, whole_run, tmp_path, changes, message):
    shutil.copytree(whole_run, tmp_path / "run")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*.*")}
    with pytest.raises(ValueError, match=re.escape(message)):
        train(make_config(**changes))
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*.*")} == before


def test_finished_run_without_checkpoints_is_not_begun_again(make_config, whole_run, tmp_path):
    shutil.copytree(whole_run, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    with pytest.raises(ValueError, match="holds a finished model without any"):
        train(make_config())


def test_run_folder_in_use_is_refused(make_config, tmp_path):
    from vflow.train.folder import RunFolder

    folder = RunFolder(tmp_path / "run")
    folder.lock()
    with pytest.raises(ValueError, match="is in use"):
        train(make_config())
    folder.close()


def _poison(monkeypatch, steps, how):
    """Spoil the loss, or only its gradient, at the given training steps."""
    taken = iter(range(10**6))
    original = ImageFlow.to_bits_per_dim

    def poisoned(self, log_prob):
        bits = original(self, log_prob)
        if self.training and next(taken) in steps:
            if how == "loss":
                return bits * math.nan
            bits.register_hook(lambda grad: grad * math.inf)
        return bits

    monkeypatch.setattr(ImageFlow, "to_bits_per_dim", poisoned)


@pytest.mark.parametrize("how", ["loss", "gradient"])
def test_bad_step_is_skipped_and_counted(make_config, monkeypatch, how):
    _poison(monkeypatch, {2}, how)
    trainer = _trainer(make_config())
    for _ in range(2):
        trainer.take_step(lambda: False)
    before = {
        f"{file}.{name}": value.clone()
        for file, tensors in trainer.tensors().items()
        for name, value in tensors.items()
    }
    trainer.take_step(lambda: False)
    for file, tensors in trainer.tensors().items():
        for name, value in tensors.items():
            assert torch.equal(value, before[f"{file}.{name}"]), name
    assert trainer.step == 3
    assert [outcome[2] for _, outcome in trainer.outcomes(True)] == [0, 0, 1]


def test_skipped_steps_are_counted_in_the_metrics(make_config, monkeypatch):
    _poison(monkeypatch, {2, 3, 5}, "loss")
    config = make_config(steps=6, eval_every=0)
    train(config)
    records = _records(config.out, "train")
    assert [record["skipped"] for record in records] == [0, 2, 3]
    assert records[1]["bits_per_dim"] is None  # the mean of no steps, which JSON cannot call NaN
    assert "NaN" not in (config.out / "metrics.jsonl").read_text()
    assert math.isfinite(records[2]["bits_per_dim"])


@pytest.mark.parametrize(("how", "cause"), [("loss", "bits/dim"), ("gradient", "the gradient's")])
def test_ten_bad_steps_in_a_row_stop_the_run(make_config, monkeypatch, how, cause):
    _poison(monkeypatch, set(range(5, 100)), how)
    config = make_config(steps=40, checkpoint_every=4, eval_every=0)
    with pytest.raises(RunStopped, match=f"^{cause}.* at step 15 .*step-00000012") as caught:
        train(config)
    assert "\n" not in str(caught.value)
    assert list(list_steps(config.out / "checkpoints")) == [4, 8, 12]
    assert not (config.out / "model").exists()
    # The last checkpoint has the parameters that the last good step, the fifth, left.
    newest = load_file(config.out / "checkpoints" / "step-00000012" / "model.safetensors")
    assert all(torch.isfinite(value).all() for value in newest.values())
    earlier = load_file(config.out / "checkpoints" / "step-00000008" / "model.safetensors")
    assert all(torch.equal(newest[name], earlier[name]) for name in newest)


def test_reading_outcomes_a_step_late_changes_nothing(
    make_config, whole_run, fingerprint, monkeypatch
):
    # What happens on a GPU, where the host does not wait for the step it has just launched.
    original = Trainer.__init__

    def late(self, *args):
        original(self, *args)
        self._steps_left_unread = 1

    monkeypatch.setattr(Trainer, "__init__", late)
    config = make_config()
    train(config)
    assert fingerprint(config.out) == fingerprint(whole_run)

    _poison(monkeypatch, set(range(5, 15)), "loss")  # good again before the host has noticed
    config = make_config(out=config.out.parent / "bad", steps=40, eval_every=0)
    with pytest.raises(RunStopped, match=r"at step 15 .*step-00000012"):
        train(config)


def test_streak_goes_on_over_a_restart(make_config, monkeypatch):
    _poison(monkeypatch, set(range(4, 100)), "loss")
    config = make_config(steps=8, eval_every=0)
    train(config)  # four bad steps
    with pytest.raises(RunStopped, match="at step 14 "):
        train(make_config(steps=40, eval_every=0))


def test_data_without_test_images_train_where_nothing_is_evaluated(make_config, images, tmp_path):
    (tmp_path / "data").mkdir()
    np.save(tmp_path / "data" / "train.npy", np.load(images)["train"])
    data = {"data": f"npy:{tmp_path / 'data'}", "steps": 2}
    with pytest.raises(ValueError, match=r"has train alone: eval_every 0 trains without an eval"):
        train(make_config(**data))
    assert not make_config().out.exists()
    train(make_config(**data, eval_every=0))
    assert (make_config().out / "model").is_dir()
    train(make_config(data=f"npy:{images}", steps=3, eval_every=3))  # later there are some


def test_model_takes_the_shape_of_the_data(make_config, tmp_path, capsys):
    grey = np.random.default_rng(0).integers(0, 256, (40, 12, 8, 1), dtype=np.uint8)
    np.save(tmp_path / "grey.npy", grey)
    config = make_config(data=f"npy:{tmp_path / 'grey.npy'}", steps=1)
    train(config)
    assert "flowpp-tiny takes the shape of the data: 1x12x8" in capsys.readouterr().out
    assert vflow.load_model(config.out / "model").data_shape == (1, 12, 8)


@pytest.mark.parametrize("channels", [1, 2, 4, 5])
def test_any_number_of_channels_trains_goes_on_and_is_sampled(make_config, tmp_path, channels):
    shape = (20, 8, 8, channels)
    values = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    np.save(tmp_path / "images.npy", values)
    changes = {"data": f"npy:{tmp_path / 'images.npy'}", "preset": "vflow-tiny", "sample_every": 1}
    for steps in (1, 2):
        config = make_config(steps=steps, checkpoint_every=1, eval_every=1, **changes)
        train(config)
        with Image.open(config.out / "samples" / f"step-{steps:08d}.png") as image:
            assert image.mode == ("L" if channels < 3 else "RGB")
    assert vflow.load_model(config.out / "model").data_shape == (channels, 8, 8)
    command(["sample", str(config.out), "-n", "2", "--out", str(tmp_path / "drawn.png")])
    with np.load(tmp_path / "drawn.npz") as file:
        assert file["images"].shape == (2, 8, 8, channels)


def test_vflow_on_photographs_with_samples(make_config):
    config = make_config(
        preset="vflow-tiny", data="photos", steps=2, sample_every=1, eval_images=10
    )
    train(config)
    assert vflow.load_model(config.out / "model").data_shape == (3, 16, 16)
    for step in (1, 2):
        with Image.open(config.out / "samples" / f"step-{step:08d}.png") as image:
            assert image.size[0] >= 8 * 16
    assert _records(config.out, "eval")[0]["images"] == 10


def test_bf16_trains(make_config):
    config = make_config(precision="bf16", steps=4)
    train(config)
    values = [record["bits_per_dim"] for record in _records(config.out, "train")]
    assert all(math.isfinite(value) for value in values)
    reference = make_config(steps=4, out=config.out.parent / "fp32")
    train(reference)
    exact = [record["bits_per_dim"] for record in _records(reference.out, "train")]
    assert values != exact
    np.testing.assert_allclose(values, exact, rtol=0.02)


def test_dropout_and_noise_depend_on_the_step_alone(make_config):
    outcomes = []
    for wasted in (0, 100):
        trainer = _trainer(make_config())
        torch.manual_seed(wasted)
        torch.rand(wasted)
        trainer.take_step(lambda: False)
        outcomes.append(trainer.outcomes(True))
    assert outcomes[0] == outcomes[1]
    noise = [trainer._noise(step)["eps_u"] for step in (0, 0, 1)]
    assert torch.equal(noise[0], noise[1])
    assert not torch.equal(noise[0], noise[2])
