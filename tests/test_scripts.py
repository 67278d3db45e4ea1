"""The scripts run as their documentation says: by their path, from any folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[1] / "scripts"
MAINS = sorted(path for path in SCRIPTS.glob("*.py") if "__main__" in path.read_text())
assert MAINS


@pytest.mark.parametrize("path", MAINS, ids=[path.stem for path in MAINS])
def test_help(path, tmp_path):
    if path.stem == "kernel_report":
        pytest.importorskip("triton")
    environment = {name: text for name, text in os.environ.items() if name != "PYTHONPATH"}
    ran = subprocess.run(
        [sys.executable, path, "--help"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith("usage: ")
