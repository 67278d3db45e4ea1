"""Tests marked `alone` run one at a time over all processes of this tree, fixtures included."""

from __future__ import annotations

import os
from collections.abc import Generator
from pathlib import Path

import pytest
from filelock import FileLock

PLACE = "VFLOW_TESTS_LOCK"
"""Where the lock is, for tests that are to wait for nobody else's."""
LOCK = Path(os.environ.get(PLACE, Path(__file__).parents[1] / "build" / "alone.lock"))
HELD = "VFLOW_TESTS_ALONE"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    # Such a test may itself run pytest, whose tests are alone then.
    if item.get_closest_marker("alone") is None or HELD in os.environ:
        return (yield)
    LOCK.parent.mkdir(exist_ok=True)
    with FileLock(LOCK), pytest.MonkeyPatch.context() as patch:
        patch.setenv(HELD, "1")
        return (yield)
