from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "kill_resume.py"


@pytest.mark.alone
def test_run_killed_at_random_moments_ends_bit_identical():
    command = [sys.executable, str(SCRIPT), "--kills", "2", "--steps", "20"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    summary = done.stdout.splitlines()[-1]
    assert summary.startswith("2 kills in ")
    assert summary.endswith("every run bit-identical: yes")
