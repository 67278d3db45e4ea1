"""The CPU library's C ABI: what is wrong with a call is told, and nothing is written."""

from __future__ import annotations

import pytest

from tests import abi
from vflow.ops import native

CALLS = {name: {"dtype": 0, **good, "threads": 1} for name, good in abi.CALLS.items()}
MISUSE = [
    *abi.MISUSE,
    ({"dtype": 3}, "dtype"),
    ({"threads": 0}, "threads"),
    ({"threads": -2}, "threads"),
    ({"batch": 2, "channels": 2**32}, "too large"),  # the weight's square
]


def test_every_function_has_a_call():
    assert set(CALLS) == set(native.FUNCTIONS)


@pytest.mark.parametrize(("function", "change", "message"), abi.bad_calls(CALLS, MISUSE), ids=str)
def test_misuse_returns_an_error_and_writes_nothing(function, change, message):
    library = native.cpu_library()
    abi.assert_refused(library, function, CALLS[function], change, message, "cpu")
