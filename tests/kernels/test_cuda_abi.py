"""The CUDA library's C ABI: what is wrong with a call is told, and nothing is written."""

from __future__ import annotations

import pytest
import torch

from tests import abi
from tests.kernels.agreement import DEVICE
from vflow.ops import native
from vflow.ops.launchers import call


@pytest.fixture(autouse=True)
def _library(cuda_kernels):
    """Every test runs on the CUDA library or its emulation."""


ROOM = {"workspace": abi.W, "workspace_bytes": 4096}
CALLS = {
    name: {"dtype": 0, **abi.CALLS[name], **(ROOM if function.workspace else {})}
    for name, function in native.FUNCTIONS.items()
    if function.cuda
}
MISUSE = [
    *abi.MISUSE,
    ({"dtype": 4}, "dtype"),
    ({"components": 2**40}, "too large"),
    ({"positions": 2**40}, "too large"),
    ({"features": 2**40}, "too large"),
    ({"workspace_bytes": 8}, "workspace"),
    ({"batch": 2, "channels": 1025}, "at most 1024 channels"),
]
NO_ROOM = {"workspace", "workspace_bytes"}  # a small matrix wants none


@pytest.mark.parametrize(
    ("function", "change", "message"),
    [
        (function, change, message)
        for function, change, message in abi.bad_calls(CALLS, MISUSE)
        if not (function == "actnorm_conv1x1" and NO_ROOM & set(change))
    ],
    ids=str,
)
def test_misuse_returns_an_error_and_writes_nothing(function, change, message):
    device, stream = call.queue_of(torch.empty(0, device=DEVICE))
    good = {**CALLS[function], "device": device, "stream": stream}
    abi.assert_refused(native.cuda_library(), function, good, change, message, DEVICE)


@pytest.mark.parametrize(
    ("function", "sizes"),
    [
        ("mixlogistic", (2, 3, 4)),
        ("mixlogistic_inverse", (2, 3, 4)),
        ("actnorm_conv1x1", (2, 1, 3)),
        ("actnorm_conv1x1_inverse", (2, 1, 3)),
        ("actnorm_conv1x1_backward", (2, 1, 3)),
        ("gated_residual_norm_backward", (2, 3)),
    ],
)
def test_workspaces_refuse_what_their_functions_do(function, sizes):
    x = torch.empty(0, device=DEVICE)
    assert call.workspace(function, x, *sizes).dtype == torch.uint8
    with pytest.raises(RuntimeError, match="negative"):
        call.workspace(function, x, -1, *sizes[1:])
