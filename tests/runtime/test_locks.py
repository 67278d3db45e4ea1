from __future__ import annotations

import multiprocessing
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from vflow.runtime.locks import locked


def hold(path, entered):
    with locked(path):
        entered.set()
        time.sleep(60)


def test_a_killed_process_leaves_no_lock(tmp_path):
    context = multiprocessing.get_context("fork")
    entered = context.Event()
    process = context.Process(target=hold, args=(tmp_path / "a" / ".lock", entered))
    process.start()
    assert entered.wait(60)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    with locked(tmp_path / "a" / ".lock"):
        pass


def test_one_at_a_time(tmp_path):
    inside, most = [], []

    def enter(number):
        with locked(tmp_path / ".lock"):
            inside.append(number)
            most.append(len(inside))
            time.sleep(0.005)
            inside.remove(number)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(enter, range(16)))
    assert most == [1] * 16


def test_where_there_are_no_locks(tmp_path, monkeypatch):
    def refuse(file, operation):
        raise OSError(37, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    with locked(tmp_path / ".lock"):
        pass


def test_other_errors_are_told(tmp_path, monkeypatch):
    def refuse(file, operation):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("fcntl.flock", refuse)
    with pytest.raises(OSError, match="Input/output"), locked(tmp_path / ".lock"):
        pass
