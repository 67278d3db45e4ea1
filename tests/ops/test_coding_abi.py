"""The C ABI of the coder and the exact functions: what is wrong with a call is told."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
import torch

from vflow.ops import native
from vflow.ops.coder import START_STATE, _Struct
from vflow.ops.normal_masses import normal_starts

# In the order of csrc/vflow.h: C a coder, N whole numbers, F floats, D doubles, T the masses.
CALLS = {
    "coder_push_bits": ["C", "N", 4, 8],
    "coder_pop_bits": ["C", "N", 4, 8],
    "coder_push_normal": ["C", "N", 4, 32, "T"],
    "coder_pop_normal": ["C", "N", 4, 32, "T"],
    "coder_cells": ["C", "N", "N", "N", "N", 4, 18],
    "coder_cells_inverse": ["C", "N", "N", "N", "N", "N", 4, 18],
    "coder_scale": ["C", "N", "N", "N", "N", "N", 4, 2],
    "coder_scale_inverse": ["C", "N", "N", "N", "N", "N", 4, 2],
    "exact_mixture_cells": [0, "N", "F", "N", "N", 4, 2, 1, 32, 18],
    "exact_mixture_find": [0, "N", "F", "N", "N", "N", 4, 2, 1, 32, 18],
    "exact_function": [0, "D", "D", 4],
    "exact_lift": ["N", "D", 4, 2, 1, 0],
    "exact_convolution": ["F", "F", "F", "F", 1, 2, 3, 2, 3, 3],
    "exact_concat_elu": ["F", "F", 4, 2],
    "exact_gated_residual": ["F", "F", "F", "F", "F", 4, 2],
    "exact_attention": ["F", "F", 1, 4, 2, 3],
}
POINTERS = set("CNFDT")
OPTIONAL = {("exact_gated_residual", 2), ("exact_gated_residual", 3)}


def call(name, arguments, threads=1):
    """Call with arrays of ones, large enough for anything here."""
    states = np.full(8, START_STATE, np.uint64)
    words, counts, lent = np.zeros((8, 64), np.uint32), np.zeros(8, np.int64), np.zeros(8, np.int64)
    coder = _Struct(8, 64, *(array.ctypes.data for array in (states, words, counts, lent)))
    dtypes = {"N": torch.int64, "F": torch.float32, "D": torch.float64}
    kept, passed = [normal_starts()], []
    for argument in arguments:
        if argument == "C":
            passed.append(ctypes.byref(coder))
        elif argument == "T":
            passed.append(kept[0].ctypes.data)
        elif argument in dtypes:
            kept.append(torch.ones(4096, dtype=dtypes[argument]))
            passed.append(kept[-1].data_ptr())
        else:
            passed.append(argument)
    return getattr(native.cpu_library(), name)(*passed, threads)


def test_every_function_has_a_call():
    assert set(CALLS) == set(native.CODING_FUNCTIONS)


@pytest.mark.parametrize("name", CALLS)
def test_good_calls(name):
    # Of ones, y = 1 is 0 above lower = 1; all others are as good as any.
    assert call(name, CALLS[name]) == 0
    assert call(name, CALLS[name], threads=3) == 0


@pytest.mark.parametrize("name", CALLS)
def test_bad_calls(name):
    good = CALLS[name]
    assert call(name, good, threads=0) != 0
    for place, argument in enumerate(good):
        if argument in POINTERS:
            assert call(name, [*good[:place], None, *good[place + 1 :]]) != 0 or (
                (name, place) in OPTIONAL
            )
        elif argument != 0 or name == "exact_function":
            for bad in (-1, -(2**31)):
                assert call(name, [*good[:place], bad, *good[place + 1 :]]) != 0, (place, bad)


def test_coders_that_cannot_be():
    def coder(lanes=8, capacity=64, state=START_STATE, count=0):
        arrays = np.full(8, state, np.uint64), np.zeros((8, 64), np.uint32), np.full(8, count)
        kept.append(arrays)
        return _Struct(lanes, capacity, *(array.ctypes.data for array in arrays), None)

    kept: list = []
    numbers = np.ones(4, np.int64)
    push = native.cpu_library().coder_push_bits
    for bad in ({"lanes": 0}, {"lanes": 65}, {"state": 5}, {"count": 65}, {"count": -1}):
        assert push(ctypes.byref(coder(**bad)), numbers.ctypes.data, 4, 8, 1) != 0
    many = np.full(8 * 200, 2**32 - 1, np.int64)
    full = push(ctypes.byref(coder()), many.ctypes.data, len(many), 32, 1)
    assert native.cpu_library().vflow_error_message(full) == b"the coder has no room left"
