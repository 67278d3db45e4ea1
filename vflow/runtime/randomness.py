"""Every random number of a run as a pure function of its seed, the step and what it is for.

Nothing random is carried from step to step, so a run can go on from its seed and its step alone,
and one process and many draw the same noise.
"""

from __future__ import annotations

from enum import IntEnum

import torch

_MASK = (1 << 64) - 1


class Stream(IntEnum):
    """What random numbers are for. The values are part of what a seed means: never change one."""

    PARAMETERS = 1
    ORDER = 2
    NOISE = 3
    DROPOUT = 4
    EVALUATION = 5
    SAMPLES = 6
    FLIPS = 7


def splitmix64(word: int) -> int:
    """The output function of SplitMix64 (Steele, Lea & Flood, 2014): a bijection of 64-bit words.

    Neighbouring words, such as successive steps, come out unrelated in all their bits.
    """
    word = (word + 0x9E3779B97F4A7C15) & _MASK
    word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & _MASK
    return word ^ (word >> 31)


def mix(seed: int, *words: int) -> int:
    """A 64-bit seed from a seed and any number of integers from 0 to 2^64 - 1.

    Order counts, and two lists that differ in their last word only never give the same seed.
    """
    state = splitmix64(seed)
    for word in words:
        state = splitmix64(state ^ word)
    return state


def generator(device: torch.device, seed: int, *words: int) -> torch.Generator:
    """A generator seeded with `mix(seed, *words)`.

    Its numbers are the same on every device of one type, but CPU and CUDA differ.
    """
    return torch.Generator(device).manual_seed(mix(seed, *words))
