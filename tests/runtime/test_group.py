"""Leaving a process group: its threads may still hold tensors, its processes ask its store."""

from __future__ import annotations

import threading
import time

import pytest
import torch
import torch.distributed as dist

from vflow.runtime import distributed
from vflow.runtime.distributed import Ranks

CPU = torch.device("cpu")


@pytest.fixture
def group_over(monkeypatch):
    """Processes, here threads, that meet over a store and have no group to speak of."""

    def meet(store, leave=lambda: None):
        monkeypatch.setattr(distributed, "rendezvous", lambda url: iter([(store, 0, 2)]))
        monkeypatch.setattr(dist, "init_process_group", lambda *args, **kwargs: None)
        monkeypatch.setattr(dist, "destroy_process_group", leave)

    return meet


@pytest.fixture
def slow_thread(group_over, monkeypatch):
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

    group_over(dist.HashStore(), lambda: happened.append("left"))
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


def test_who_keeps_the_store_leaves_last(group_over):
    happened = []
    group_over(dist.HashStore())

    def take_part(rank, seconds):
        with Ranks(rank=rank, size=2).group(CPU):
            time.sleep(seconds)
            happened.append(f"{rank} is done")
        happened.append(f"{rank} has left")

    threads = [threading.Thread(target=take_part, args=a) for a in ((0, 0), (1, 0.3))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert happened.index("1 is done") < happened.index("0 has left")


def test_others_that_are_gone_are_not_waited_for_long(group_over, monkeypatch):
    group_over(dist.HashStore())
    monkeypatch.setattr(distributed, "LONGEST_FAREWELL", 0.1)
    began = time.monotonic()
    with Ranks(rank=0, size=2).group(CPU):
        pass
    assert time.monotonic() - began >= 0.1


def test_a_store_that_is_gone_hears_no_farewell(group_over):
    store = dist.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    other = dist.TCPStore("localhost", store.port, is_master=False)
    group_over(other)
    with Ranks(rank=1, size=2).group(CPU):
        del store
