"""Leaving a process group whose threads still hold tensors."""

from __future__ import annotations

import threading

import pytest
import torch
import torch.distributed as dist

from vflow.runtime import distributed
from vflow.runtime.distributed import Ranks

CPU = torch.device("cpu")


@pytest.fixture
def slow_thread(monkeypatch):
    """Collectives whose tensors a thread holds on to for a while; the list says what happened."""
    happened: list[str] = []
    threads: list[threading.Thread] = []

    def all_reduce(tensor):
        held, let_go = [tensor], threading.Event()

        def hold():
            let_go.wait(0.3)
            happened.append("let go")
            held.clear()

        threads.append(threading.Thread(target=hold))
        threads[-1].start()

    class NoStore:
        def __init__(self, *args: object) -> None:
            pass

    monkeypatch.setattr(dist, "PrefixStore", NoStore)
    monkeypatch.setattr(distributed, "rendezvous", lambda url: iter([(None, 0, 2)]))
    monkeypatch.setattr(dist, "init_process_group", lambda *args, **kwargs: None)
    monkeypatch.setattr(dist, "destroy_process_group", lambda: happened.append("left"))
    monkeypatch.setattr(dist, "all_reduce", all_reduce)
    yield happened
    for thread in threads:
        thread.join()


def test_group_is_left_when_its_threads_hold_nothing(slow_thread):
    ranks, kept = Ranks(rank=1, size=2), torch.ones(3)
    with ranks.group(CPU):
        ranks.sum(kept)
        ranks.sum(torch.ones(2))
    assert slow_thread == ["let go", "let go", "left"]


@pytest.mark.parametrize("leaving", [KeyboardInterrupt, SystemExit])
def test_so_it_is_on_the_way_out(slow_thread, leaving):
    ranks = Ranks(rank=1, size=2)

    def stop():
        with ranks.group(CPU):
            ranks.sum(torch.ones(2))
            raise leaving

    with pytest.raises(leaving):
        stop()
    assert slow_thread == ["let go", "left"]


def test_a_thread_that_never_lets_go_does_not_hold_the_process(slow_thread, monkeypatch):
    monkeypatch.setattr(distributed, "LONGEST_RELEASE", 0.05)
    with (ranks := Ranks(rank=1, size=2)).group(CPU):
        ranks.sum(torch.ones(2))
    assert slow_thread == ["left"]
