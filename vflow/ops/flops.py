"""Importing this makes torch.utils.flop_counter count our operations' matrix products.

A product and a sum are two FLOPs, as there. Element-wise work is not counted, nor what a backward
pass computes a second time: so an implementation gains nothing by doing more than it must.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.utils.flop_counter import register_flop_formula

_Shape = tuple[int, ...]


def _attention(qkv: _Shape) -> int:
    """The products of queries and keys, and of weights and values."""
    batch, positions, _, heads, width = qkv
    return 2 * 2 * batch * heads * positions**2 * width


def _channel_product(x: _Shape) -> int:
    return 2 * math.prod(x) * x[-1]


@register_flop_formula(torch.ops.vflow.self_attention)
def _self_attention(qkv: _Shape, *_: Any, **__: Any) -> int:
    return _attention(qkv)


@register_flop_formula(torch.ops.vflow.self_attention_backward)
def _self_attention_backward(
    grad: _Shape, grad_log: _Shape, qkv: _Shape, *_: Any, **__: Any
) -> int:
    return 2 * _attention(qkv)


@register_flop_formula([torch.ops.vflow.actnorm_conv1x1, torch.ops.vflow.actnorm_conv1x1_inverse])
def _actnorm_conv1x1(x: _Shape, *_: Any, **__: Any) -> int:
    return _channel_product(x)


@register_flop_formula(torch.ops.vflow.actnorm_conv1x1_backward)
def _actnorm_conv1x1_backward(grad_y: _Shape, *_: Any, **__: Any) -> int:
    return 2 * _channel_product(grad_y)


def _windows(x: _Shape, weight: _Shape) -> int:
    """The products of a plain 3x3 convolution, however it is computed."""
    return 2 * math.prod(x[:-1]) * math.prod(weight)


@register_flop_formula(torch.ops.vflow.conv3x3)
def _conv3x3(x: _Shape, weight: _Shape, *_: Any, **__: Any) -> int:
    return _windows(x, weight)


@register_flop_formula(torch.ops.vflow.conv3x3_backward)
def _conv3x3_backward(grad: _Shape, x: _Shape, weight: _Shape, *_: Any, **__: Any) -> int:
    return 2 * _windows(x, weight)
