"""The command as torchrun runs it: errors told once, and no limit of time on one that is slow."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time

import pytest
import torch
import torch.distributed as dist

from tests.forks import run_command
from vflow.runtime import console
from vflow.runtime.console import one_line_errors, speak_for_all
from vflow.runtime.distributed import Ranks

CPU = torch.device("cpu")

# The first process loads the data for longer than a collective would wait for it.
SLOW = """
import datetime, os, time
import torch.distributed as dist
import vflow.train.loop as loop
from vflow.train.__main__ import main

init, load = dist.init_process_group, loop.load_inputs

def impatient(*args, **kwargs):
    init(*args, timeout=datetime.timedelta(seconds=2), **kwargs)

def slow(config, device):
    if os.environ["RANK"] == "0":
        time.sleep(4)
    return load(config, device)

dist.init_process_group, loop.load_inputs = impatient, slow
main()
"""


def _torchrun(processes, *arguments, **options):
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return subprocess.run(
        [*launcher, f"--nproc_per_node={processes}", *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        **options,
    )


def test_without_any_flag_what_is_missing_is_told_once(tmp_path):
    # A torchvision that does not import: nothing is to be downloaded.
    (tmp_path / "torchvision.py").write_text("raise ImportError('not here')")
    paths = os.pathsep.join([str(tmp_path), os.getcwd()])
    environment = {**os.environ, "VFLOW_DATA": str(tmp_path / "data"), "PYTHONPATH": paths}
    done = _torchrun(2, "-m", "vflow.train", env=environment, cwd=tmp_path)
    assert done.returncode != 0
    assert done.stderr.count("vflow: error: ") == 1
    assert done.stderr.count("vflow: error: cifar10 needs cifar-10-binary.tar.gz (or ") == 1
    assert not (tmp_path / "runs").exists()


def test_a_flag_that_is_wrong_is_told_once(tmp_path):
    done = run_command(["--out", str(tmp_path / "run"), "--optim.lr", "0"])
    assert done.returncode != 0
    assert done.stderr.count("vflow: error: ") == 1
    assert not (tmp_path / "run").exists()


def test_the_others_wait_for_slow_data_without_a_limit(make_config, to_flags):
    config = make_config(steps=2, sample_every=1)
    done = run_command(to_flags(config), SLOW)
    assert done.returncode == 0, done.stderr
    assert (config.out / "model").is_dir()
    assert "broadcast_buffers" not in done.stderr
    assert "Warning" not in done.stderr


def _meeting(size, errors, store):
    """What becomes of processes, here threads, that leave a block together."""
    found = {}

    def run(rank):
        ranks = Ranks(rank=rank, size=size, local_rank=rank)
        ranks._shared.store = store
        try:
            for turn in range(3):
                with ranks.together(CPU):
                    time.sleep(0.05 * rank)
                    if turn == 2 and rank in errors:
                        raise ValueError(f"from {rank}")
            found[rank] = "done"
        except BaseException as error:
            found[rank] = error

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return found


def test_processes_leave_together_and_the_first_to_fail_speaks(monkeypatch):
    monkeypatch.setattr(console, "LINGER_SECONDS", 0)
    assert set(_meeting(3, (), dist.HashStore()).values()) == {"done"}
    found = _meeting(4, (1, 3), dist.HashStore())
    assert str(found[1]) == "from 1"
    assert found[1] in console._told_for_all
    for rank in (0, 2, 3):
        assert isinstance(found[rank], SystemExit)
        assert found[rank].code == console.EXIT_ERROR


@pytest.mark.parametrize("speaks", [False, True])
def test_another_process_waits_before_it_speaks_for_itself(monkeypatch, capsys, speaks):
    waited = []
    monkeypatch.setattr(time, "sleep", waited.append)
    monkeypatch.setenv("LOCAL_RANK", "2")
    error = ValueError("mine alone")
    if speaks:
        speak_for_all(error)

    @one_line_errors
    def command():
        raise error

    with pytest.raises(SystemExit):
        command()
    assert waited == ([] if speaks else [console.LINGER_SECONDS])
    assert capsys.readouterr().err == "vflow: error: mine alone\n"


def test_too_many_processes_say_the_same_on_every_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    for local_rank in (0, 15):
        ranks = Ranks(rank=local_rank, size=16, local_rank=local_rank, local_size=16)
        with pytest.raises(ValueError, match="at most the 8 CUDA devices here, got 16"):
            ranks.device("cuda")
