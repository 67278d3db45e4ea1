"""What `deterministic` asks of PyTorch, and that it puts all back."""

from __future__ import annotations

import pytest
import torch
from torch.backends import cuda, cudnn

from vflow.runtime.determinism import CUBLAS_VARIABLE, deterministic
from vflow.train import train
from vflow.train.trainer import Trainer


def _state():
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        cudnn.deterministic,
        cudnn.benchmark,
        cuda.cudnn_sdp_enabled(),
        torch.utils.deterministic.fill_uninitialized_memory,
    )


def test_everything_is_asked_for_and_put_back(monkeypatch):
    monkeypatch.delenv(CUBLAS_VARIABLE, raising=False)
    monkeypatch.setattr(cudnn, "benchmark", True)
    before = _state()
    within = []

    def fail():
        within.append(_state())
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), deterministic(True):
        fail()
    assert within == [(True, False, True, False, False, False)]
    assert _state() == before
    with deterministic(False):
        assert _state() == before


def test_an_environment_that_forbids_it_is_named(make_config, monkeypatch):
    monkeypatch.setenv(CUBLAS_VARIABLE, ":0:0")
    with pytest.raises(ValueError, match=r"CUBLAS_WORKSPACE_CONFIG must be :4096:8 or :16:8"):
        train(make_config(deterministic=True))
    assert not make_config().out.exists()


def test_a_run_steps_under_it_and_has_the_bits_of_one_that_does_not(
    make_config, whole_run, fingerprint, monkeypatch
):
    # On a CPU nothing changes, which is what the help says.
    states = []
    take_step = Trainer.take_step

    def spy(self, asked):
        states.append(_state())
        take_step(self, asked)

    monkeypatch.setattr(Trainer, "take_step", spy)
    config = make_config(deterministic=True)
    train(config)
    assert set(states) == {(True, False, True, False, False, False)}
    assert fingerprint(config.out) == fingerprint(whole_run)


def test_losses_tell_runs_apart_and_find_the_same_one_the_same(make_config, losses, tmp_path):
    # The comparison that tests/train/test_cuda.py makes on a GPU, with bfloat16 in TF32's place.
    found = {}
    for name, precision in (("fp32", "fp32"), ("again", "fp32"), ("bf16", "bf16")):
        config = make_config(precision=precision, steps=4, out=tmp_path / name)
        train(config)
        found[name] = losses(config.out)
    assert found["again"] == found["fp32"]
    assert found["bf16"] != found["fp32"]
    assert found["bf16"] == pytest.approx(found["fp32"], rel=0.02)
