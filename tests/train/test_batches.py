"""The images of a step: mirrored, gathered ahead, from memory and from a mapped file."""

from __future__ import annotations

import threading
from typing import ClassVar

import numpy as np
import pytest
import torch

from vflow.runtime.distributed import Ranks
from vflow.train import train
from vflow.train.batches import Batches
from vflow.train.inputs import Inputs, load_inputs
from vflow.train.trainer import Trainer

CPU = torch.device("cpu")


def _order(step):
    return torch.arange(4) + 4 * step


@pytest.fixture
def held():
    return torch.randint(0, 256, (40, 3, 4, 8), dtype=torch.uint8)


@pytest.fixture
def mapped(held, tmp_path):
    path = tmp_path / "images.npy"
    np.save(path, held.permute(0, 2, 3, 1).numpy())
    return torch.from_numpy(np.load(path, mmap_mode="c")).permute(0, 3, 1, 2)


def test_mapped_images_are_those_in_memory_one_step_ahead(held, mapped):
    threads = {}

    def order(step):
        threads[step] = threading.current_thread()
        return _order(step)

    batches = Batches(mapped, order, None, CPU)
    for step in (0, 1, 2, 7, 3):  # in turn, and not
        taken = batches.take(step)
        assert taken.is_contiguous()
        assert torch.equal(taken, held[_order(step)])
    batches.close()
    assert set(threads) >= {0, 1, 2, 3, 7, 8}
    assert all(thread is not threading.main_thread() for thread in threads.values())


def test_a_batch_taken_stays_as_it_is_while_the_next_is_gathered(held, mapped):
    batches = Batches(mapped, _order, None, CPU)
    taken = [batches.take(step) for step in range(6)]
    batches.close()
    assert torch.equal(torch.cat(taken), held[:24])


def test_an_error_in_the_thread_comes_out(mapped):
    batches = Batches(mapped, lambda step: torch.tensor([10**6]), None, CPU)
    with pytest.raises(IndexError):
        batches.take(0)
    batches.close()


class _Event:
    """Stands in for CUDA's: says what was recorded and waited for."""

    log: ClassVar[list[tuple[int, str]]] = []

    def record(self):
        self.log.append((id(self), "copied"))

    def synchronize(self):
        self.log.append((id(self), "waited"))


def test_for_a_gpu_two_pinned_buffers_are_filled_in_turn(mapped, held, monkeypatch):
    # A rehearsal on the CPU: pinned memory is plain memory, the device is one of no values.
    _Event.log.clear()
    pinned = []

    def empty_like(like, pin_memory):
        assert pin_memory
        pinned.append(torch.empty_strided(like.shape, like.stride(), dtype=like.dtype))
        return pinned[-1]

    monkeypatch.setattr(torch, "empty_like", empty_like)
    monkeypatch.setattr(torch.cuda, "Event", _Event)
    copies = []
    original = torch.Tensor.to

    def to(self, where, non_blocking=False):
        if where == torch.device("cuda"):
            assert non_blocking
            copies.append(self.data_ptr())
            return self.clone()
        return original(self, where, non_blocking=non_blocking)

    monkeypatch.setattr(torch.Tensor, "to", to)
    batches = Batches(mapped, _order, None, torch.device("cuda"))
    for step in range(5):
        assert torch.equal(batches.take(step), held[_order(step)])
    batches.close()
    assert len(pinned) == 2
    first, second = (buffer.data_ptr() for buffer in pinned)
    assert copies == [first, second, first, second, first]
    events = {event for event, _ in _Event.log}
    assert len(events) == 2
    for event in events:  # a buffer is filled again once the copy from it is waited for
        happened = [what for each, what in _Event.log if each == event]
        assert happened == (["copied", "waited"] * 3)[: len(happened)]
        assert len(happened) >= 3


def test_large_sets_stay_where_they_are_and_small_ones_go_to_the_gpu(held, mapped, monkeypatch):
    from vflow.train import inputs

    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (4 * held.numel() - 1, 0))
    monkeypatch.setattr(torch.Tensor, "pin_memory", None)
    assert inputs._place(mapped, torch.device("cuda")) is mapped
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (4 * held.numel(), 0))
    monkeypatch.setattr(inputs, "CHUNK", 7)
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *a, device, **options: empty(*a, **options))
    placed = inputs._place(mapped, torch.device("cuda"))
    assert placed.is_contiguous()
    assert torch.equal(placed, held)


@pytest.mark.parametrize("flip", [False, True])
def test_a_run_on_mapped_images_is_bit_identical(
    make_config, images, fingerprint, tmp_path, monkeypatch, flip
):
    config = make_config(flip=flip, out=tmp_path / "held", steps=6)
    train(config)
    arrays = dict(np.load(images))
    for split, values in arrays.items():
        np.save(tmp_path / f"{split}.npy", values)

    def load_mapped(config, device):
        return Inputs(
            **{
                split: torch.from_numpy(np.load(tmp_path / f"{split}.npy", mmap_mode="c")).permute(
                    0, 3, 1, 2
                )
                for split in ("train", "test")
            },
            shape_overrides=load_inputs(config, device).shape_overrides,
        )

    monkeypatch.setattr("vflow.train.loop.load_inputs", load_mapped)
    mapped = make_config(flip=flip, out=tmp_path / "mapped", steps=3)
    train(mapped)
    train(make_config(flip=flip, out=tmp_path / "mapped", steps=6))  # the digest is the same, too
    ours, theirs = fingerprint(mapped.out), fingerprint(config.out)
    assert ours["files"] == theirs["files"]


def test_flips_are_half_of_the_images_and_the_same_for_any_number_of_processes(make_config):
    config = make_config(flip=True)
    inputs = load_inputs(config, CPU)
    alone = Trainer(config, inputs, Ranks(), CPU)
    for size in (2, 4):
        ranks = [Ranks(rank=rank, size=size) for rank in range(size)]
        parts = [Trainer(config, inputs, each, CPU).batches.take(0) for each in ranks]
        assert torch.equal(torch.cat(parts), alone.batches.take(0))
    flipped = []
    for step in range(25):
        plain = inputs.train[alone.order.indices(step)]
        for ours, image in zip(alone.batches.take(step), plain, strict=True):
            flipped.append(not torch.equal(ours, image))
            assert torch.equal(ours, image.flip(-1) if flipped[-1] else image)  # the width is last
    assert 0.4 < sum(flipped) / len(flipped) < 0.6
    assert not torch.equal(alone._flips(0), alone._flips(1))


def test_a_run_with_flips_goes_on_bit_identically_and_differs_from_one_without(
    make_config, whole_run, fingerprint, tmp_path
):
    whole = make_config(flip=True, out=tmp_path / "whole")
    train(whole)
    for steps in (5, 12):
        train(make_config(flip=True, out=tmp_path / "halved", steps=steps))
    assert fingerprint(tmp_path / "halved")["files"] == fingerprint(whole.out)["files"]
    assert fingerprint(whole.out)["files"] != fingerprint(whole_run)["files"]
