from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest

from vflow.io.checkpoint import list_steps, save_checkpoint
from vflow.runtime.signals import StopSignals
from vflow.train import train
from vflow.train.trainer import Trainer


def _raise_at(monkeypatch, number, steps):
    """Have this process receive a signal in the middle of the given steps."""
    original = Trainer._noise

    def noise(self, step):
        if self.step in steps:
            signal.raise_signal(number)
        return original(self, step)

    monkeypatch.setattr(Trainer, "_noise", noise)


@pytest.mark.parametrize(
    ("number", "error", "code"),
    [(signal.SIGTERM, SystemExit, 143), (signal.SIGINT, KeyboardInterrupt, None)],
    ids=["SIGTERM", "SIGINT"],
)
def test_signal_writes_a_checkpoint_and_the_run_goes_on_bit_identically(
    make_config, whole_run, fingerprint, monkeypatch, capsys, number, error, code
):
    config = make_config()
    with monkeypatch.context() as patch:
        _raise_at(patch, number, {6})
        with pytest.raises(error) as stop:
            train(config)
    assert code is None or stop.value.code == code
    said = capsys.readouterr().out.splitlines()[-1]
    checkpoint = config.out / "checkpoints" / "step-00000007"
    assert said.startswith(f"stopped at step 7 by {number.name}; checkpoint {checkpoint}; ")
    assert max(list_steps(config.out / "checkpoints")) == 7
    assert not (config.out / "model").exists()
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    train(config)
    assert fingerprint(config.out) == fingerprint(whole_run)


def test_signal_during_an_evaluation_leaves_it_for_later(
    make_config, whole_run, fingerprint, monkeypatch
):
    config = make_config()
    with monkeypatch.context() as patch:

        def stop_at_once(model, images, batch_size, seed, ranks, stopping):
            signal.raise_signal(signal.SIGTERM)
            assert stopping()

        patch.setattr("vflow.train.run.mean_bits_per_dim", stop_at_once)
        with pytest.raises(SystemExit):
            train(config)
    assert max(list_steps(config.out / "checkpoints")) == 6
    train(config)
    assert fingerprint(config.out) == fingerprint(whole_run)


def test_second_ctrl_c_interrupts_at_once():
    with StopSignals() as signals:
        signal.raise_signal(signal.SIGINT)
        assert signals.received == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    with StopSignals() as signals:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        assert signals.received == signal.SIGTERM


def test_terminated_process_exits_with_143(make_config, to_flags):
    config = make_config(steps=100_000)
    command = [sys.executable, "-m", "vflow.train", *to_flags(config)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        while "step 4/" not in process.stdout.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        started = time.monotonic()
        said = process.stdout.read()
        assert process.wait() == 143
    assert time.monotonic() - started < 20
    assert "by SIGTERM" in said.splitlines()[-1]


def test_minutes_between_checkpoints_are_kept_and_change_nothing(
    make_config, whole_run, fingerprint, monkeypatch
):
    saved = []

    def save(folder, step, *args):
        saved.append(step)
        return save_checkpoint(folder, step, *args)

    monkeypatch.setattr("vflow.train.run.save_checkpoint", save)
    train(make_config(checkpoint_minutes=1e-9))
    assert saved == list(range(1, 13))
    assert fingerprint(make_config().out) == fingerprint(whole_run)
    saved.clear()
    train(make_config(checkpoint_minutes=0, out=make_config().out / "never"))
    assert saved == [4, 8, 12]


def test_a_stop_read_early_for_a_timed_checkpoint_is_acted_on_with_the_others(
    make_config, whole_run, fingerprint, monkeypatch
):
    # As on a GPU, where outcomes are read a step late, with a checkpoint after every step.
    original = Trainer.__init__

    def late(self, *args):
        original(self, *args)
        self._steps_left_unread = 1

    monkeypatch.setattr(Trainer, "__init__", late)
    stops = []
    take_step = Trainer.take_step

    def stopping(self, asked):
        take_step(self, lambda: self.step == 4)
        stops.append(self.step)

    for minutes in (0, 1e-9):
        config = make_config(checkpoint_minutes=minutes, out=make_config().out / str(minutes))
        with monkeypatch.context() as patch:
            patch.setattr(Trainer, "take_step", stopping)
            with pytest.raises(SystemExit):
                train(config)
        train(config)
        assert fingerprint(config.out) == fingerprint(whole_run)
    assert stops == [1, 2, 3, 4, 5, 6] * 2
