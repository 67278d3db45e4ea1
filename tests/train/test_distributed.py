from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.forks import run_command
from vflow.runtime.console import RunStopped
from vflow.runtime.distributed import Ranks
from vflow.train import ModelOverrides, train

pytestmark = pytest.mark.alone  # two processes each

# Trains in float64, where the order of a sum is all that two processes can change.
DOUBLE = """
import sys
import vflow.train.trainer as trainer
from vflow.train.__main__ import main

make = trainer.create_model
trainer.create_model = lambda *args, **kwargs: make(*args, **kwargs).double()
main()
"""

# Spoils one parameter of the second process before a checkpoint.
DIVERGING = """
import torch
from vflow.train.__main__ import main
from vflow.train.trainer import Trainer

take_step = Trainer.take_step

def spoil(self, stopping):
    take_step(self, stopping)
    if self.step == 3 and self.ranks.rank == 1:
        with torch.no_grad():
            next(self.model.parameters()).add_(1e-6)

Trainer.take_step = spoil
main()
"""


def _metrics(run: Path) -> list[tuple[int, str, float]]:
    records = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [(record["step"], record["kind"], record["bits_per_dim"]) for record in records]


def _last_checkpoint(run: Path) -> Path:
    return max((run / "checkpoints").glob("step-*"))


@pytest.fixture
def undropped(make_config):
    # Dropout is each process's own; without it, two processes compute what one does.
    return lambda **changes: make_config(
        model=ModelOverrides(filters=4, components=2, dropout=0.0), **changes
    )


def test_two_processes_end_like_one(undropped, to_flags, tmp_path, monkeypatch):
    two = undropped(out=tmp_path / "two", check_ranks=True)
    done = run_command(to_flags(two), DOUBLE)
    assert done.returncode == 0, done.stderr

    import vflow.train.trainer as trainer

    make = trainer.create_model
    monkeypatch.setattr(trainer, "create_model", lambda *a, **kw: make(*a, **kw).double())
    one = undropped(out=tmp_path / "one")
    train(one)

    for (step, kind, ours), theirs in zip(_metrics(one.out), _metrics(two.out), strict=True):
        assert (step, kind) == theirs[:2]
        assert abs(ours - theirs[2]) < 1e-12
    for name in ("model", "ema", "optimizer"):
        ours, theirs = (
            load_file(_last_checkpoint(run) / f"{name}.safetensors") for run in (one.out, two.out)
        )
        assert ours.keys() == theirs.keys()
        for key in ours:
            torch.testing.assert_close(ours[key], theirs[key], rtol=1e-9, atol=1e-12, msg=key)


def test_two_processes_in_float32_agree_bit_for_bit_and_go_on(undropped, to_flags, tmp_path):
    whole = undropped(out=tmp_path / "whole", check_ranks=True, steps=6)
    halved = undropped(out=tmp_path / "halved", check_ranks=True, steps=6)
    done = run_command(to_flags(whole))
    assert done.returncode == 0, done.stderr
    shutil.copytree(whole.out, halved.out)
    shutil.rmtree(halved.out / "checkpoints" / "step-00000006")
    shutil.rmtree(halved.out / "model")
    done = run_command(to_flags(halved))
    assert done.returncode == 0, done.stderr
    assert "going on from step 4" in done.stdout
    for name in ("model", "ema", "optimizer"):
        files = [_last_checkpoint(c.out) / f"{name}.safetensors" for c in (whole, halved)]
        assert files[0].read_bytes() == files[1].read_bytes()
    assert _metrics(whole.out) == _metrics(halved.out)


def test_processes_that_differ_are_caught(undropped, to_flags):
    config = undropped(check_ranks=True)
    done = run_command(to_flags(config), DIVERGING)
    assert done.returncode != 0
    assert "vflow: error: parameters must be the same in all processes" in done.stderr
    assert not (config.out / "checkpoints").exists()


def test_indivisible_batch_is_one_line(undropped, to_flags):
    config = undropped(batch_size=7)
    done = run_command(to_flags(config))
    assert done.returncode != 0
    message = "vflow: error: batch_size must be divisible by the 2 processes, got 7"
    assert done.stderr.count(message) == done.stderr.count("vflow: error: ") == 1
    assert not config.out.exists()


def test_ranks_share_a_batch_without_overlap():
    batch = list(range(12))
    shares = [batch[Ranks(rank=rank, size=3).share_of(12)] for rank in range(3)]
    assert shares == [batch[:4], batch[4:8], batch[8:]]


def test_no_torchrun_means_one_process():
    ranks = Ranks.from_environment({})
    assert (ranks.rank, ranks.size, ranks.is_main) == (0, 1, True)
    environment = {"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}
    assert Ranks.from_environment(environment) == Ranks(rank=3, size=8, local_rank=1)


def test_alone_there_is_nobody_to_differ_from():
    Ranks().require_same(torch.nn.Linear(2, 2), "parameters")
    with pytest.raises(RunStopped), Ranks().together(torch.device("cpu")):
        raise RunStopped("passed on")
