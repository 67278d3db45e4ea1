from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vflow.data import BatchOrder


@st.composite
def orders(draw):
    world_size = draw(st.integers(1, 4))
    batch_size = world_size * draw(st.integers(1, 5))
    num_images = draw(st.integers(batch_size, 60))
    seed = draw(st.integers(0, 2**40))
    return num_images, batch_size, seed, world_size


@settings(max_examples=60, deadline=None)
@given(orders(), st.integers(0, 5))
def test_an_epoch_is_a_permutation_up_to_its_incomplete_batch(arguments, epoch):
    num_images, batch_size, seed, _ = arguments
    order = BatchOrder(num_images, batch_size, seed)
    steps = range(epoch * order.steps_per_epoch, (epoch + 1) * order.steps_per_epoch)
    assert {order.epoch(step) for step in steps} == {epoch}
    visited = torch.cat([order.indices(step) for step in steps])
    assert len(visited) == num_images // batch_size * batch_size
    assert len(set(visited.tolist())) == len(visited)
    assert visited.dtype == torch.int64
    assert int(visited.min()) >= 0
    assert int(visited.max()) < num_images


@settings(max_examples=60, deadline=None)
@given(orders(), st.integers(0, 100))
def test_ranks_together_take_the_batch_of_one_process_in_order(arguments, step):
    num_images, batch_size, seed, world_size = arguments
    whole = BatchOrder(num_images, batch_size, seed).indices(step)
    parts = [
        BatchOrder(num_images, batch_size, seed, rank, world_size).indices(step)
        for rank in range(world_size)
    ]
    assert all(len(part) == batch_size // world_size for part in parts)
    assert torch.equal(torch.cat(parts), whole)


@settings(max_examples=40, deadline=None)
@given(orders(), st.lists(st.integers(0, 200), min_size=1, max_size=8))
def test_a_step_is_the_same_whenever_it_is_asked_for(arguments, steps):
    num_images, batch_size, seed, _ = arguments
    order = BatchOrder(num_images, batch_size, seed)
    torch.manual_seed(len(steps))  # the global generator plays no part
    for step in steps:
        fresh = BatchOrder(num_images, batch_size, seed).indices(step)
        assert torch.equal(order.indices(step), fresh)


def test_epochs_and_seeds_have_orders_of_their_own():
    epochs = {
        tuple(BatchOrder(50, 50, seed).indices(epoch).tolist())
        for seed in range(6)
        for epoch in range(6)
    }
    assert len(epochs) == 36


def test_every_image_comes_first_about_equally_often():
    order = BatchOrder(4, 4, seed=0)
    firsts = torch.stack([order.indices(step)[0] for step in range(2000)]).bincount(minlength=4)
    # 500 expected, standard deviation 19.4: five of them.
    assert (firsts - 500).abs().max() < 97


def test_changing_a_batch_leaves_the_order_alone():
    order = BatchOrder(12, 4, seed=3)
    expected = order.indices(1).clone()
    order.indices(1).zero_()
    assert torch.equal(order.indices(1), expected)


def test_the_global_generator_is_not_touched():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    BatchOrder(12, 4, seed=3).indices(1)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_images": 0}, "num_images must be an integer >= 1, got 0"),
        ({"batch_size": 0}, "batch_size must be an integer >= 1, got 0"),
        ({"batch_size": 8.0}, "batch_size must be an integer >= 1, got 8.0"),
        ({"batch_size": 9}, "batch_size must be divisible by the number of processes 2, got 9"),
        ({"batch_size": 22}, "batch_size must be at most the number of training images 20, got 22"),
        ({"seed": -1}, "seed must be an integer >= 0, got -1"),
        ({"seed": True}, "seed must be an integer >= 0, got True"),
        ({"rank": -1}, "rank must be an integer >= 0, got -1"),
        ({"rank": 2}, "rank must be below world_size 2, got 2"),
        ({"world_size": 0}, "world_size must be an integer >= 1, got 0"),
    ],
)
def test_bad_arguments(change, message):
    arguments = {"num_images": 20, "batch_size": 8, "seed": 0, "rank": 1, "world_size": 2}
    with pytest.raises(ValueError, match=f"^{message}$"):
        BatchOrder(**arguments | change)


def test_negative_step():
    with pytest.raises(ValueError, match=r"^step must be >= 0, got -1$"):
        BatchOrder(8, 4, seed=0).indices(-1)
