"""What `import vflow` offers, and what it leaves until it is asked for."""

from __future__ import annotations

import subprocess
import sys

import pytest

import vflow


def test_every_public_name_is_there_after_a_plain_import():
    code = (
        "import sys, vflow; assert 'torch' not in sys.modules;"
        "print([n for n in vflow.__all__ if n not in dir(vflow) or getattr(vflow, n) is None])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"


def test_what_is_not_there_is_named():
    with pytest.raises(AttributeError, match="module 'vflow' has no attribute 'create_modle'"):
        _ = vflow.create_modle
