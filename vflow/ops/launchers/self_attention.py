"""Self-attention and its gradient on a native library: so far the CPU's alone."""

from __future__ import annotations

import torch
from torch import Tensor

from vflow.ops.checks import logdet_dtype
from vflow.ops.launchers.call import Call


def self_attention(call: Call, qkv: Tensor) -> tuple[Tensor, Tensor]:
    """See `vflow.ops.self_attention`; and log_total [B, heads, N]."""
    qkv = qkv.contiguous()
    batch, positions, _, heads, width = qkv.shape
    output = qkv.new_empty(batch, positions, heads, width)
    log_total = qkv.new_empty(batch, heads, positions, dtype=logdet_dtype(qkv.dtype))
    call(
        "self_attention",
        qkv,
        qkv.data_ptr(),
        output.data_ptr(),
        log_total.data_ptr(),
        batch,
        positions,
        heads,
        width,
    )
    return output, log_total


def self_attention_backward(
    call: Call, grad: Tensor, grad_log_total: Tensor, qkv: Tensor, output: Tensor, log_total: Tensor
) -> Tensor:
    """Gradient of qkv, from the inputs and the outputs."""
    grad, grad_log_total = grad.contiguous(), grad_log_total.contiguous()
    qkv, output, log_total = qkv.contiguous(), output.contiguous(), log_total.contiguous()
    grad_qkv = torch.empty_like(qkv)
    batch, positions, _, heads, width = qkv.shape
    call(
        "self_attention_backward",
        qkv,
        grad.data_ptr(),
        grad_log_total.data_ptr(),
        qkv.data_ptr(),
        output.data_ptr(),
        log_total.data_ptr(),
        grad_qkv.data_ptr(),
        batch,
        positions,
        heads,
        width,
    )
    return grad_qkv
