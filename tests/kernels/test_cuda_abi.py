"""The CUDA library's C ABI: what is wrong with a call is told, and nothing is written."""

from __future__ import annotations

import math

import pytest
import torch

from tests.kernels.agreement import DEVICE
from vflow.ops import native
from vflow.ops.launchers import call


@pytest.fixture(autouse=True)
def _library(cuda_kernels):
    """Every test runs on the CUDA library or its emulation."""


def numbers(count, seed):
    return torch.randn(count, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


# A good call of each function, in order: P points to numbers, W to a workspace.
P, W = "pointer", "workspace"


def rows(name):
    return {name: P, f"{name}_row": 6, f"{name}_stride": 6}


def pointers(*names):
    return dict.fromkeys(names, P)


MIXTURE = {"batch": 2, "elements": 3, "components": 4, "squash": 1}
CHANNELS = {"batch": 2, "positions": 1, "channels": 3}
NORM = {"rows": 2, "features": 3}
ELU = {"rows": 2, "channels": 3}
ROOM = {"workspace": W, "workspace_bytes": 4096}
WEIGHTS = pointers("scale", "bias", "weight")
CALLS = {
    "mixlogistic": {**rows("x"), **pointers("params", "y", "logdet"), **MIXTURE, **ROOM},
    "mixlogistic_inverse": {**rows("y"), **pointers("params", "x", "logdet"), **MIXTURE, **ROOM},
    "mixlogistic_backward": {
        **rows("grad_y"),
        "grad_logdet": P,
        **rows("x"),
        **pointers("params", "grad_x", "grad_params"),
        **MIXTURE,
    },
    "actnorm_conv1x1": {**rows("x"), **WEIGHTS, **pointers("y", "logdet"), **CHANNELS, **ROOM},
    "actnorm_conv1x1_inverse": {
        **rows("y"),
        **WEIGHTS,
        **pointers("x", "logdet"),
        **CHANNELS,
        **ROOM,
    },
    "actnorm_conv1x1_backward": {
        **rows("grad_y"),
        "grad_logdet": P,
        **rows("x"),
        **WEIGHTS,
        **pointers("grad_x", "grad_scale", "grad_bias", "grad_weight"),
        **CHANNELS,
        **ROOM,
    },
    "gated_residual_norm": {**pointers("x", "ab", "weight", "bias", "y"), **NORM},
    "gated_residual_norm_backward": {
        **pointers("grad", "x", "ab", "weight", "grad_x", "grad_ab", "grad_weight_bias"),
        **NORM,
        **ROOM,
    },
    "concat_elu": {**pointers("x", "y"), **ELU},
    "concat_elu_backward": {**pointers("grad", "x", "grad_x"), **ELU},
    "concat_elu_dropout": {**pointers("x", "seed", "y"), **ELU, "dropout": 0.5},
    "concat_elu_dropout_backward": {
        **pointers("grad", "x", "seed", "grad_x"),
        **ELU,
        "dropout": 0.5,
    },
    "dropout": {**pointers("x", "seed", "y"), **ELU, "dropout": 0.5},
}
MISUSE = [
    ({"dtype": -1}, "dtype"),
    ({"dtype": 4}, "dtype"),
    ({"batch": -1}, "negative"),
    ({"elements": -1}, "negative"),
    ({"positions": -1}, "negative"),
    ({"rows": -1}, "negative"),
    ({"components": 0}, "at least 1"),
    ({"channels": 0}, "at least 1"),
    ({"features": 0}, "at least 1"),
    ({"batch": 2**62}, "too large"),
    ({"components": 2**40}, "too large"),
    ({"positions": 2**40}, "too large"),
    ({"rows": 2**62}, "too large"),
    ({"features": 2**40}, "too large"),
    ({"squash": 2}, "flag"),
    ({"dropout": -0.1}, "dropout"),
    ({"dropout": 1.0}, "dropout"),
    ({"dropout": math.nan}, "dropout"),
    ({"x_row": 4}, "row"),
    ({"y_row": 0}, "row"),
    ({"grad_y_row": 5}, "row"),
    ({"x_stride": -1}, "stride"),
    ({"y_stride": 2**62}, "stride"),
    ({"grad_y_stride": -7}, "stride"),
    ({"workspace_bytes": 8}, "workspace"),
    ({"batch": 2, "channels": 1025}, "at most 1024 channels"),
    *[
        ({name: None}, "null")
        for name in sorted({n for c in CALLS.values() for n, v in c.items() if v in (P, W)})
    ],
]
NO_ROOM = {"workspace", "workspace_bytes"}  # a small matrix wants none


@pytest.mark.parametrize(
    ("function", "change", "message"),
    [
        (function, change, message)
        for function, good in CALLS.items()
        for change, message in MISUSE
        if set(change) <= {"dtype", *good}
        and not (function == "actnorm_conv1x1" and NO_ROOM & set(change))
    ],
    ids=str,
)
def test_misuse_returns_an_error_and_writes_nothing(function, change, message):
    library = native.cuda_library()
    good = {"dtype": 0, **CALLS[function]}
    tensors = {n: numbers(4096, i) for i, (n, v) in enumerate(good.items()) if v in (P, W)}
    before = {name: tensor.clone() for name, tensor in tensors.items()}
    good.update({name: tensor.data_ptr() for name, tensor in tensors.items()})
    good["device"], good["stream"] = call.queue_of(next(iter(tensors.values())))
    function_call = getattr(library, f"vflow_cuda_{function}")
    error = function_call(*{**good, **change}.values())
    assert error != 0
    assert message in library.vflow_error_message(error).decode()
    assert all(torch.equal(tensor, before[name]) for name, tensor in tensors.items())
    assert function_call(*good.values()) == 0, "the good call of this table"
    assert not all(torch.equal(tensor, before[name]) for name, tensor in tensors.items())


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
