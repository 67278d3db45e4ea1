from __future__ import annotations

import pytest
import torch

from vflow.runtime.randomness import Stream, generator, mix, splitmix64

GOLDEN = 0x9E3779B97F4A7C15


def test_splitmix64_gives_the_published_sequence():
    # The sequence of SplitMix64 seeded with 1234567, as its author's C code prints it.
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    assert [splitmix64((1234567 + k * GOLDEN) % 2**64) for k in range(4)] == expected


def test_seeds_of_neighbouring_steps_streams_and_seeds_all_differ():
    seeds = {
        mix(seed, stream, step, rank)
        for seed in range(4)
        for stream in Stream
        for step in range(200)
        for rank in range(3)
    }
    assert len(seeds) == 4 * len(Stream) * 200 * 3
    low = {seed % 2**32 for seed in seeds}  # the CPU's generator takes these bits alone
    assert len(low) >= len(seeds) - 2


def test_order_of_words_counts():
    assert mix(1, 2, 3) != mix(1, 3, 2) != mix(3, 1, 2)


@pytest.mark.parametrize("seed", [0, 2**63 - 1])
def test_generator_repeats(seed):
    cpu = torch.device("cpu")
    first, again, other = (
        torch.randn(8, generator=generator(cpu, seed, Stream.NOISE, step)) for step in (5, 5, 6)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
