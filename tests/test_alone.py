"""Tests of several processes: what is marked `alone` waits for its like."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests import alone

WITHOUT_PLUGINS = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
TESTS = """
import os, time, pytest

@pytest.fixture
def machine():
    os.close(os.open({busy!r}, os.O_CREAT | os.O_EXCL))
    yield
    os.unlink({busy!r})

@pytest.mark.alone
@pytest.mark.parametrize("number", range(2))
def test_has_the_machine(machine, number):
    time.sleep(0.5)  # for the other to begin, if it may
"""


def test_marked_tests_wait_for_one_another(tmp_path):
    (tmp_path / "test_both.py").write_text(TESTS.format(busy=str(tmp_path / "busy")))
    ours = (alone.HELD, "PYTEST_XDIST_WORKER")
    environment = {name: text for name, text in os.environ.items() if name not in ours}
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-p", "xdist", "-n", "2", "-p", "tests.alone"),
            *("-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", tmp_path, tmp_path),
        ],
        cwd=Path(__file__).parents[1],
        env={**environment, alone.PLACE: str(tmp_path / "lock"), **WITHOUT_PLUGINS},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
