"""What a run must keep when it goes on, and what may be changed on purpose."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch

from vflow.io.checkpoint import list_steps, open_checkpoint, save_checkpoint
from vflow.plots import save_curves
from vflow.runtime.distributed import Ranks
from vflow.train import ModelOverrides, OptimConfig, train
from vflow.train.__main__ import main
from vflow.train.inputs import load_inputs
from vflow.train.trainer import Trainer

CPU = torch.device("cpu")


@pytest.fixture
def command(monkeypatch, to_flags):
    def run(config):
        monkeypatch.setattr("sys.argv", ["vflow.train", *to_flags(config)])
        main()

    return run


def _rewrite_facts(run, change):
    """Have a run's newest checkpoint remember other facts."""
    steps = list_steps(run / "checkpoints")
    checkpoint = open_checkpoint(steps[max(steps)])
    names = ("model", "ema", "optimizer")
    tensors = {name: checkpoint.tensors(name) for name in names}
    change(checkpoint.state["fixed"])
    save_checkpoint(run / "checkpoints", checkpoint.step, tensors, checkpoint.state, 3)


def test_moved_renamed_and_relative_data_are_the_same(
    command, make_config, whole_run, fingerprint, images, tmp_path, monkeypatch
):
    config = make_config(steps=4, eval_every=6)
    command(config)
    (tmp_path / "elsewhere").mkdir()
    shutil.copy(images, tmp_path / "elsewhere" / "renamed.npz")
    command(make_config(steps=8, data=f"npy:{tmp_path / 'elsewhere' / 'renamed.npz'}"))
    monkeypatch.chdir(tmp_path / "elsewhere")
    command(make_config(data="npy:renamed.npz"))
    assert fingerprint(config.out)["files"] == fingerprint(whole_run)["files"]


@pytest.mark.parametrize("part", ["train", "test"])
def test_other_images_under_the_same_name_are_refused(
    make_config, whole_run, images, tmp_path, part
):
    shutil.copytree(whole_run, tmp_path / "run")
    arrays = dict(np.load(images))
    arrays[part] = arrays[part].copy()
    arrays[part][-1, -1, -1, -1] ^= 1
    np.savez(tmp_path / "smooth.npz", **arrays)
    kind = {"train": "training", "test": "test"}[part]
    train(make_config(steps=13, eval_every=0))  # which looks at no test images, and forgets none
    with pytest.raises(ValueError, match=rf"run: its {kind} images were those of npy:\S+smooth"):
        train(make_config(steps=13, data=f"npy:{tmp_path / 'smooth.npz'}"))


def test_runs_without_a_digest_go_by_the_kind_of_data_and_their_number(
    make_config, whole_run, images, tmp_path
):
    def old(facts):
        for name in ("training images", "test images", "flip"):
            del facts[name]

    shutil.copytree(whole_run, tmp_path / "run")
    _rewrite_facts(tmp_path / "run", old)
    shutil.copy(images, tmp_path / "renamed.npz")
    moved = {"data": f"npy:{tmp_path / 'renamed.npz'}", "steps": 13, "eval_every": 0}
    with pytest.raises(ValueError, match="flip was False and is True"):
        train(make_config(**moved, flip=True))
    fewer = dict(np.load(images))
    np.savez(tmp_path / "fewer.npz", train=fewer["train"][:70], test=fewer["test"])
    with pytest.raises(ValueError, match="number of training images was 80 and is 70"):
        train(make_config(**{**moved, "data": f"npy:{tmp_path / 'fewer.npz'}"}))
    _rewrite_facts(tmp_path / "run", lambda facts: facts.update(data="photos"))
    with pytest.raises(ValueError, match="data was photos and is npy:"):
        train(make_config(**moved))
    _rewrite_facts(tmp_path / "run", lambda facts: facts.update(data="npy:gone.npz"))
    train(make_config(**moved))


def test_changes_made_on_purpose_are_said_and_kept(
    command, make_config, whole_run, tmp_path, capsys
):
    run = tmp_path / "run"
    shutil.copytree(whole_run, run)
    changes = {
        "batch_size": 16,
        "steps": 16,
        "optim": OptimConfig(warmup=4, ema=0.9, lr=0.0005),
        "model": ModelOverrides(filters=4, components=2, dropout=0.2),
        "precision": "bf16",
    }
    with pytest.raises(SystemExit):
        command(make_config(**changes))
    assert "or --resume-with-changes" in capsys.readouterr().err
    command(make_config(**changes, resume_with_changes=True))
    said = capsys.readouterr().out
    assert "from step 12 on: batch_size was 8 and is 16, precision was fp32 and is bf16, " in said
    expected = {
        "batch_size": {"was": 8, "is": 16},
        "precision": {"was": "fp32", "is": "bf16"},
        "optim.lr": {"was": 0.0012, "is": 0.0005},
        "model.flow.dropout": {"was": 0.1, "is": 0.2},
    }
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    (record,) = [record for record in records if record["kind"] == "changes"]
    others = {name for name in record["changes"] if name not in expected}
    assert all(name.startswith("model.") and name.endswith(".dropout") for name in others)
    kept = {name: record["changes"][name] for name in expected}
    assert (record["step"], kept) == (12, expected)
    assert records[-2]["lr"] == 0.0005
    steps = list_steps(run / "checkpoints")
    state = open_checkpoint(steps[16]).state
    assert state["changes"] == [{"step": 12, "changes": record["changes"]}]
    save_curves({"run": run / "metrics.jsonl"}, tmp_path / "curves.png")
    # What holds now is what the run has from now on.
    with pytest.raises(ValueError, match="batch_size was 16 and is 8"):
        train(make_config(steps=20))
    train(make_config(**{**changes, "steps": 17, "eval_every": 0}))
    assert open_checkpoint(list_steps(run / "checkpoints")[17]).state["changes"] == state["changes"]


def test_a_run_begun_before_there_was_a_fact_had_its_default(make_config, whole_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(whole_run, run)
    _rewrite_facts(run, lambda facts: facts.pop("optim.fall"))
    train(make_config(steps=13))
    with pytest.raises(ValueError, match=r"optim.fall was None and is 5"):
        train(make_config(steps=14, optim=OptimConfig(warmup=4, ema=0.9, fall=5)))


def test_a_change_is_bit_identical_when_it_is_made_again(
    make_config, whole_run, tmp_path, fingerprint
):
    """A run killed before its first checkpoint with the change, and one that is not."""
    found = []
    for name, stops in (("killed", (14, 16)), ("whole", (16,))):
        run = tmp_path / name
        shutil.copytree(whole_run, run)
        for steps in stops:
            changes = {"out": run, "batch_size": 16, "resume_with_changes": True}
            train(make_config(steps=steps, checkpoint_every=100, eval_every=6, **changes))
            if steps == 14:
                shutil.rmtree(run / "checkpoints" / "step-00000014")
        found.append(fingerprint(run))
    found[0]["metrics"] = [m for m in found[0]["metrics"] if m["step"] != 14]
    found[1]["metrics"] = [m for m in found[1]["metrics"] if m["step"] != 14]
    assert found[0] == found[1]


class _Checkpoint:
    def __init__(self, step, state):
        self.step, self.state = step, state


def test_another_batch_size_goes_on_in_the_epoch(make_config):
    # 80 images: 10 steps of 8 are an epoch; after 3 of them, and 1 of 2 of 32, it is half over.
    config = make_config(batch_size=8)
    trainer = Trainer(config, load_inputs(config, CPU), Ranks(), CPU)

    def after(step, shift, before, now):
        changed = make_config(batch_size=now)
        other = Trainer(changed, load_inputs(changed, CPU), Ranks(), CPU)
        state = {"fixed": {"batch_size": before}, "order_shift": shift}
        other.resume_order(_Checkpoint(step, state))
        return other, step + other.order_shift

    other, place = after(13, 0, 8, 16)  # the second epoch, 24 images of it seen
    assert place == 5 + 2
    assert other.steps_of(3) == 15 - other.order_shift
    assert torch.equal(other.order.indices(place)[:8], trainer.order.indices(14)[:8])
    other, place = after(13, 0, 8, 32)
    assert place == 2 + 1
    other, place = after(19, 0, 8, 32)  # what does not fill a batch is left out of the epoch
    assert place == 2 + 2
    other, place = after(20, 3, 16, 8)  # step 23 of 5 an epoch
    assert place == 40 + 6
    assert after(20, 3, 16, 16)[1] == 23
