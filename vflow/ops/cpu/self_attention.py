"""Self-attention and its gradient on the native CPU library."""

from __future__ import annotations

import torch
from torch import Tensor

from vflow.ops.checks import logdet_dtype
from vflow.ops.native import call


def self_attention(qkv: Tensor) -> tuple[Tensor, Tensor]:
    """See `vflow.ops.self_attention`; and log_total [B, heads, N]."""
    qkv = qkv.contiguous()
    batch, positions, _, heads, width = qkv.shape
    output = torch.empty(batch, positions, heads, width, dtype=qkv.dtype)
    log_total = torch.empty(batch, heads, positions, dtype=logdet_dtype(qkv.dtype))
    call(
        "vflow_cpu_self_attention",
        qkv.dtype,
        *(t.data_ptr() for t in (qkv, output, log_total)),
        *(batch, positions, heads, width),
    )
    return output, log_total


def self_attention_backward(
    grad: Tensor, grad_log_total: Tensor, qkv: Tensor, output: Tensor, log_total: Tensor
) -> Tensor:
    """Gradient of qkv, from the inputs and the outputs."""
    tensors = [t.contiguous() for t in (grad, grad_log_total, qkv, output, log_total)]
    grad_qkv = torch.empty(qkv.shape, dtype=qkv.dtype)
    batch, positions, _, heads, width = qkv.shape
    call(
        "vflow_cpu_self_attention_backward",
        qkv.dtype,
        *(t.data_ptr() for t in (*tensors, grad_qkv)),
        *(batch, positions, heads, width),
    )
    return grad_qkv
