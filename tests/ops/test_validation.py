"""Every wrong argument of every operation: one line that names it, the requirement and what
came."""

# ruff: noqa: E501 (a table reads best a row a line)

from __future__ import annotations

import re

import pytest
import torch

from vflow import ops


def t(*shape, dtype=torch.float32, device=None):
    return torch.zeros(shape, dtype=dtype, device=device)


MIX = (t(2, 3), t(2, 3, 8))
ACT = (t(2, 3, 4), t(3, 4), t(3, 4), t(4, 4))
GATED = (t(2, 5), t(2, 10), t(5), t(5))


def swap(inputs, place, value):
    return (*inputs[:place], value, *inputs[place + 1 :])


F64, INT, META = t(1, dtype=torch.float64), t(1, dtype=torch.int64), "meta"
BAD = [
    (ops.mixlogistic, swap(MIX, 0, [1.0]), "x must be a torch.Tensor, got list"),
    (ops.mixlogistic, swap(MIX, 0, None), "x must be a torch.Tensor, got NoneType"),
    (ops.mixlogistic, swap(MIX, 1, 3.0), "params must be a torch.Tensor, got float"),
    (ops.mixlogistic, swap(MIX, 0, t(2, 3, dtype=torch.int64)), "x must have dtype float16, bfloat16, float32 or float64, got torch.int64"),
    (ops.mixlogistic, swap(MIX, 0, t(2, 3, dtype=torch.complex64)), "got torch.complex64"),
    (ops.mixlogistic, swap(MIX, 1, t(2, 3, 8, dtype=torch.float64)), "params must have dtype torch.float32, that of x, got torch.float64"),
    (ops.mixlogistic, swap(MIX, 1, t(2, 3, 8, device=META)), "params must be on cpu, the device of x, got meta"),
    (ops.mixlogistic, swap(MIX, 0, t()), "x must have shape [B, ..., C], got ()"),
    (ops.mixlogistic, swap(MIX, 0, t(3)), "x must have shape [B, ..., C], got (3,)"),
    (ops.mixlogistic, swap(MIX, 0, t(2, 0)), "x must have shape [B, ..., C], got (2, 0)"),
    (ops.mixlogistic, swap(MIX, 1, t()), "params must have shape [B, ..., C, 2 + 3K] with K >= 1 and x's [B, ..., C] = (2, 3), got ()"),
    (ops.mixlogistic, swap(MIX, 1, t(2, 3, 2)), "got (2, 3, 2)"),
    (ops.mixlogistic, swap(MIX, 1, t(2, 3, 9)), "got (2, 3, 9)"),
    (ops.mixlogistic, swap(MIX, 1, t(3, 3, 8)), "got (3, 3, 8)"),
    (ops.mixlogistic, swap(MIX, 1, t(2, 3)), "got (2, 3)"),
    (ops.mixlogistic_inverse, swap(MIX, 0, "y"), "y must be a torch.Tensor, got str"),
    (ops.mixlogistic_inverse, swap(MIX, 1, t(2, 3, 7)), "y's [B, ..., C] = (2, 3), got (2, 3, 7)"),
    (ops.actnorm_conv1x1, swap(ACT, 0, t(4)), "x must have shape [B, ..., C], got (4,)"),
    (ops.actnorm_conv1x1, swap(ACT, 1, t(4)), "scale must have shape [..., C], x's without B, = (3, 4), got (4,)"),
    (ops.actnorm_conv1x1, swap(ACT, 2, t(2, 3, 4)), "bias must have shape"),
    (ops.actnorm_conv1x1, swap(ACT, 3, t(4, 3)), "weight must have shape [C, C] = (4, 4), got (4, 3)"),
    (ops.actnorm_conv1x1, swap(ACT, 3, t(4, 4, dtype=torch.float64)), "weight must have dtype torch.float32"),
    (ops.actnorm_conv1x1, swap(ACT, 1, None), "scale must be a torch.Tensor, got NoneType"),
    (ops.actnorm_conv1x1_inverse, swap(ACT, 0, t(4)), "y must have shape [B, ..., C], got (4,)"),
    (ops.actnorm_conv1x1_inverse, swap(ACT, 2, t(3, 4, device=META)), "bias must be on cpu, the device of y, got meta"),
    (ops.gated_residual_norm, swap(GATED, 0, t()), "x must have shape [..., F], got ()"),
    (ops.gated_residual_norm, swap(GATED, 1, t(2, 5)), "ab must have shape [..., 2F] = (2, 10), got (2, 5)"),
    (ops.gated_residual_norm, swap(GATED, 2, t(4)), "weight must have shape [F] = (5,), got (4,)"),
    (ops.gated_residual_norm, swap(GATED, 3, t(5, device=META)), "bias must be on cpu, the device of x, got meta"),
    (ops.gated_residual_norm, swap(GATED, 3, t(5, dtype=torch.int32)), "bias must have dtype"),
    (ops.concat_elu, (t(),), "x must have shape [..., C], got ()"),
    (ops.concat_elu, (t(3, dtype=torch.bool),), "x must have dtype"),
    (ops.concat_elu, (3,), "x must be a torch.Tensor, got int"),
    (ops.concat_elu, (t(3), 1.0), "dropout must be a number in [0, 1), got 1.0"),
    (ops.concat_elu, (t(3), -0.1), "dropout must be a number in [0, 1), got -0.1"),
    (ops.concat_elu, (t(3), float("nan")), "dropout must be a number in [0, 1), got nan"),
    (ops.concat_elu, (t(3), "0.5"), "dropout must be a number in [0, 1), got '0.5'"),
    (ops.concat_elu, (t(3), True), "dropout must be a number in [0, 1), got True"),
    (ops.dropout, (t(), 0.5), "x must have shape [..., C], got ()"),
    (ops.dropout, (t(3, dtype=torch.int32), 0.5), "x must have dtype"),
    (ops.dropout, (None, 0.5), "x must be a torch.Tensor, got NoneType"),
    (ops.dropout, (t(3), 1), "dropout must be a number in [0, 1), got 1"),
    (ops.dropout, (t(3), None), "dropout must be a number in [0, 1), got None"),
    (ops.self_attention, (t(2, 4, 3, 5),), "qkv must have shape [B, N, 3, heads, d], got (2, 4, 3, 5)"),
    (ops.self_attention, (t(2, 4, 2, 1, 5),), "got (2, 4, 2, 1, 5)"),
    (ops.self_attention, (t(2, 0, 3, 1, 5),), "got (2, 0, 3, 1, 5)"),
    (ops.self_attention, (t(2, 4, 3, 1, 5, dtype=torch.int64),), "qkv must have dtype"),
    (ops.self_attention, (None,), "qkv must be a torch.Tensor, got NoneType"),
    (ops.conv3x3, (t(2, 4, 5), t(6, 5, 3, 3), t(6)), "x must have shape [B, H, W, in], got (2, 4, 5)"),
    (ops.conv3x3, (t(2, 4, 4, 5), t(6, 4, 3, 3), t(6)), "weight must have shape [out, in, 3, 3] = [out, 5, 3, 3], got (6, 4, 3, 3)"),
    (ops.conv3x3, (t(2, 4, 4, 5), t(6, 5, 3), t(6)), "got (6, 5, 3)"),
    (ops.conv3x3, (t(2, 4, 4, 5), t(6, 5, 3, 3), t(5)), "bias must have shape [out] = [6], got (5,)"),
    (ops.conv3x3, (t(2, 4, 4, 5), t(6, 5, 3, 3, dtype=torch.float64), t(6)), "weight must have dtype torch.float32, that of x, got torch.float64"),
    (ops.conv3x3, (None, t(6, 5, 3, 3), t(6)), "x must be a torch.Tensor, got NoneType"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("function", "inputs", "message"), BAD, ids=[f"{f.__name__}-{m[:40]}" for f, _, m in BAD]
)
def test_bad_input_is_named(function, inputs, message):
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        function(*inputs)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("function", "inputs"),
    [(ops.mixlogistic, MIX), (ops.actnorm_conv1x1, ACT), (ops.gated_residual_norm, GATED)],
    ids=["mixlogistic", "actnorm_conv1x1", "gated_residual_norm"],
)
def test_the_good_inputs_of_the_table_pass(function, inputs):
    function(*inputs)
