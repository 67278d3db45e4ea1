"""The C ABI of the native libraries: a good call of every function, and what makes a call bad."""

from __future__ import annotations

import ctypes
import math

import torch

# What both libraries take after the dtype, in order: P points to numbers, or W to a workspace.
P, W = "pointer", "workspace"


def _rows(name):
    return {name: P, f"{name}_row": 6, f"{name}_stride": 6}


def _pointers(*names):
    return dict.fromkeys(names, P)


_MIXTURE = {"batch": 2, "elements": 3, "components": 4, "squash": 1}
_CHANNELS = {"batch": 2, "positions": 1, "channels": 3}
_NORM = {"rows": 2, "features": 3}
_ELU = {"rows": 2, "channels": 3}
_HEADS = {"batch": 1, "positions": 3, "heads": 2, "width": 2}
_IMAGES = {"batch": 1, "height": 5, "width": 6, "in": 3, "out": 4}
_WEIGHTS = _pointers("scale", "bias", "weight")
CALLS = {
    "mixlogistic": {**_rows("x"), **_pointers("params", "y", "logdet"), **_MIXTURE},
    "mixlogistic_inverse": {**_rows("y"), **_pointers("params", "x", "logdet"), **_MIXTURE},
    "mixlogistic_backward": {
        **_rows("grad_y"),
        "grad_logdet": P,
        **_rows("x"),
        **_pointers("params", "grad_x", "grad_params"),
        **_MIXTURE,
    },
    "actnorm_conv1x1": {**_rows("x"), **_WEIGHTS, **_pointers("y", "logdet"), **_CHANNELS},
    "actnorm_conv1x1_inverse": {**_rows("y"), **_WEIGHTS, **_pointers("x", "logdet"), **_CHANNELS},
    "actnorm_conv1x1_backward": {
        **_rows("grad_y"),
        "grad_logdet": P,
        **_rows("x"),
        **_WEIGHTS,
        **_pointers("grad_x", "grad_scale", "grad_bias", "grad_weight"),
        **_CHANNELS,
    },
    "gated_residual_norm": {**_pointers("x", "ab", "weight", "bias", "y"), **_NORM},
    "gated_residual_norm_backward": {
        **_pointers("grad", "x", "ab", "weight", "grad_x", "grad_ab", "grad_weight_bias"),
        **_NORM,
    },
    "concat_elu": {**_pointers("x", "y"), **_ELU},
    "concat_elu_backward": {**_pointers("grad", "x", "grad_x"), **_ELU},
    "concat_elu_dropout": {**_pointers("x", "seed", "y"), **_ELU, "dropout": 0.5},
    "concat_elu_dropout_backward": {
        **_pointers("grad", "x", "seed", "grad_x"),
        **_ELU,
        "dropout": 0.5,
    },
    "dropout": {**_pointers("x", "seed", "y"), **_ELU, "dropout": 0.5},
    "self_attention": {**_pointers("qkv", "output", "log_total"), **_HEADS},
    "self_attention_backward": {
        **_pointers("grad", "grad_log_total", "qkv", "output", "log_total", "grad_qkv"),
        **_HEADS,
    },
    "conv3x3": {**_pointers("x", "weight", "bias", "y"), **_IMAGES, "transposed": 0},
    "conv3x3_backward": {**_pointers("grad", "x", "grad_weight"), **_IMAGES},
}
# Arguments that make a call bad, of the functions that have them all, and a word of the message.
MISUSE = [
    ({"dtype": -1}, "dtype"),
    ({"batch": -1}, "negative"),
    ({"elements": -1}, "negative"),
    ({"positions": -1}, "negative"),
    ({"rows": -1}, "negative"),
    ({"height": -1}, "negative"),
    ({"height": 3, "width": -1}, "negative"),
    ({"components": 0}, "at least 1"),
    ({"components": -3}, "at least 1"),
    ({"channels": 0}, "at least 1"),
    ({"channels": -3}, "at least 1"),
    ({"features": 0}, "at least 1"),
    ({"features": -3}, "at least 1"),
    ({"heads": 0}, "at least 1"),
    ({"heads": 2, "width": 0}, "at least 1"),
    ({"in": 0}, "at least 1"),
    ({"out": -2}, "at least 1"),
    ({"batch": 2**62}, "too large"),
    ({"rows": 2**62}, "too large"),
    ({"components": 2**62}, "too large"),
    ({"features": 2**61}, "too large"),
    ({"rows": 2, "channels": 2**61}, "too large"),
    ({"width": 2**61}, "too large"),
    ({"batch": 2**40, "elements": 2**40}, "too large"),
    ({"batch": 2**40, "positions": 2**40}, "too large"),
    ({"rows": 2**40, "channels": 2**40}, "too large"),
    ({"rows": 2**40, "features": 2**40}, "too large"),
    ({"in": 2**40, "out": 2**40}, "too large"),
    ({"height": 2**40, "width": 2**40}, "too large"),
    ({"squash": 2}, "flag"),
    ({"transposed": 2}, "flag"),
    ({"dtype": 1, "in": 3}, "dtype"),  # float64
    ({"dropout": -0.1}, "dropout"),
    ({"dropout": 1.0}, "dropout"),
    ({"dropout": math.nan}, "dropout"),
    *[({f"{name}_row": row}, "row") for name in ("x", "y", "grad_y") for row in (0, 4, 5)],
    *[({f"{name}_stride": n}, "stride") for name in ("x", "y", "grad_y") for n in (-1, 2**62)],
]


def bad_calls(
    calls: dict[str, dict], misuse: list[tuple[dict, str]]
) -> list[tuple[str, dict, str]]:
    """(function, arguments that make its call bad, a word of the message), null pointers too."""
    return [
        (function, change, message)
        for function, good in calls.items()
        for change, message in [
            *misuse,
            *[({name: None}, "null") for name, value in good.items() if value in (P, W)],
        ]
        if set(change) <= {"dtype", *good}
    ]


def assert_refused(
    library: ctypes.CDLL, function: str, good: dict, change: dict, message: str, device: str
) -> None:
    """A bad call says what is wrong and writes nothing; the good one says nothing and writes.

    Args:
        library: Of the CPU or CUDA.
        function: Its name without the library's prefix.
        good: All the arguments of its good call, by name and in order, P and W among them.
        change: Those that make it bad.
        message: A word of the error's message.
        device: Where the arrays are to lie.
    """
    generator = torch.Generator().manual_seed(0)
    tensors = {
        name: torch.randn(4096, generator=generator).to(device)
        for name, value in good.items()
        if value in (P, W)
    }
    before = {name: tensor.clone() for name, tensor in tensors.items()}
    good = {**good, **{name: tensor.data_ptr() for name, tensor in tensors.items()}}
    error = getattr(library, function)(*{**good, **change}.values())
    assert error != 0
    assert message in library.vflow_error_message(error).decode()
    assert all(torch.equal(tensor, before[name]) for name, tensor in tensors.items())
    assert getattr(library, function)(*good.values()) == 0, "the good call of this table"
    assert not all(torch.equal(tensor, before[name]) for name, tensor in tensors.items())
