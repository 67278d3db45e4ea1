"""tf32(): what holds within, and every setting of the user's afterwards."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch

from tests.forks import run_fork
from vflow.runtime.tf32 import tf32

EVERYTHING, CUDNN, MATMUL = torch.backends, torch.backends.cudnn, torch.backends.cuda.matmul
CPU = torch.backends.mkldnn.matmul


def reset():
    """Set what reads as a process begins with, though convolutions follow nothing any more."""
    torch.set_float32_matmul_precision("highest")
    CUDNN.allow_tf32 = True
    for of in (EVERYTHING, CUDNN, MATMUL, CPU):
        of.fp32_precision = "none"
    CUDNN.conv.fp32_precision = CUDNN.rnn.fp32_precision = "tf32"


@pytest.fixture(autouse=True)
def _fresh():
    reset()
    yield
    reset()


def state():
    found = {}
    for name, read in {
        "general": torch.get_float32_matmul_precision,
        "cudnn": lambda: CUDNN.allow_tf32,
        "matmul": lambda: MATMUL.allow_tf32,
    }.items():
        try:
            found[name] = read()
        except RuntimeError:  # an old setting and a new one that differ
            found[name] = "mixed"
    settings = (EVERYTHING, CUDNN, MATMUL, CUDNN.conv, CUDNN.rnn, CPU)
    return found | {"new": [of.fp32_precision for of in settings]}


def afterwards(setting, context):
    """States after a user's setting and the context, and after settings that come later."""
    reset()
    exec(setting)
    with context:
        pass
    states = [state()]
    for above in (EVERYTHING, CUDNN):
        for value in ("tf32", "ieee"):
            above.fp32_precision = value
            states.append(state())
    return states


SETTINGS = [
    "pass",
    "MATMUL.fp32_precision = 'ieee'",
    "MATMUL.fp32_precision = 'tf32'",
    "CUDNN.conv.fp32_precision = 'ieee'",
    "CUDNN.conv.fp32_precision = CUDNN.rnn.fp32_precision = 'none'",
    "CUDNN.fp32_precision = 'tf32'",
    "CUDNN.fp32_precision = EVERYTHING.fp32_precision = 'ieee'",
    "EVERYTHING.fp32_precision = 'tf32'",
    "EVERYTHING.fp32_precision = MATMUL.fp32_precision = 'ieee'",
    "MATMUL.allow_tf32 = True; CUDNN.allow_tf32 = False",
    "MATMUL.allow_tf32 = True; MATMUL.fp32_precision = 'ieee'",
    "CUDNN.allow_tf32 = False; CUDNN.conv.fp32_precision = 'tf32'",
    "torch.set_float32_matmul_precision('medium')",
    "torch.set_float32_matmul_precision('high'); CPU.fp32_precision = 'ieee'",
]


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("allowed", [True, False])
def test_settings_are_put_back(setting, allowed):
    """And what is set later acts as if there had been no tf32()."""
    expected = afterwards(setting, nullcontext())
    assert afterwards(setting, tf32(allowed)) == expected


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("allowed", [True, False])
def test_within(setting, allowed):
    exec(setting)
    with tf32(allowed), tf32(not allowed), tf32(allowed):
        for of in (MATMUL, CUDNN.conv, CUDNN.rnn):
            assert of.fp32_precision == ("tf32" if allowed else "ieee")
        assert CUDNN.allow_tf32 is MATMUL.allow_tf32 is allowed


@pytest.mark.parametrize("allowed", [True, False])
def test_a_process_that_has_set_nothing(allowed):
    """Where convolutions have a default of PyTorch's own, which no setting gives back."""
    program = f"""
from tests.runtime.test_tf32 import state, tf32
before = state()
for _ in range(2):
    with tf32({allowed}):
        pass
    assert state() == before, (state(), before)
"""
    done = run_fork(program)
    assert done.returncode == 0, done.stderr
