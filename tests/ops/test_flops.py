from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import vflow
import vflow.ops.flops


def _count(call) -> int:
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def test_attention_counts_six_products_forward_and_backward():
    qkv = torch.randn(2, 10, 3, 4, 8, requires_grad=True)
    product = 2 * 2 * 4 * 10 * 10 * 8
    assert _count(lambda: vflow.ops.self_attention(qkv)) == 2 * product
    assert _count(lambda: vflow.ops.self_attention(qkv).sum().backward()) == 6 * product


def test_a_convolution_counts_the_products_of_a_plain_one():
    x, bias = torch.randn(2, 8, 8, 16, requires_grad=True), torch.zeros(24)
    weight = torch.randn(24, 16, 3, 3, requires_grad=True)
    product = 2 * 2 * 8 * 8 * 9 * 16 * 24
    assert _count(lambda: vflow.ops.conv3x3(x, weight, bias)) == product
    assert _count(lambda: vflow.ops.conv3x3(x, weight, bias).sum().backward()) == 3 * product


def test_actnorm_conv1x1_counts_three_products_forward_and_backward():
    x = torch.randn(2, 4, 5, 6, requires_grad=True)
    scale, bias, weight = torch.ones(4, 5, 6), torch.zeros(4, 5, 6), torch.eye(6)
    weight.requires_grad_()
    product = 2 * 2 * 4 * 5 * 6 * 6

    def forward():
        return vflow.ops.actnorm_conv1x1(x, scale, bias, weight)[0]

    assert _count(forward) == product
    assert _count(lambda: forward().sum().backward()) == 3 * product


@pytest.mark.parametrize("preset", ["flowpp-tiny", "vflow-tiny"])
def test_a_step_costs_three_forward_passes(preset):
    model = vflow.create_model(preset)
    images = torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8)
    model.initialize(images)
    forward = _count(lambda: model(images))
    step = _count(lambda: model(images).mean().backward())
    assert 2.9 * forward < step < 3 * forward  # the noise wants no gradient
