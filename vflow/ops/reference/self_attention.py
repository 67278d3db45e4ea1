"""Self-attention over all positions, in plain PyTorch: PyTorch's own attention."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from vflow.ops.reference.precision import compute_dtype


def self_attention(qkv: Tensor) -> tuple[Tensor, Tensor]:
    """See `vflow.ops.self_attention`; and log_total [B, heads, N]."""
    return attend(qkv), _log_total(qkv)


def self_attention_backward(
    grad: Tensor, grad_log_total: Tensor, qkv: Tensor, output: Tensor, log_total: Tensor
) -> Tensor:
    """Gradient of `self_attention`, by autograd through PyTorch's own."""
    with torch.enable_grad():
        leaf = qkv.detach().requires_grad_()
        results = attend(leaf), _log_total(leaf)
        return torch.autograd.grad(results, leaf, (grad, grad_log_total))[0]


def attend(qkv: Tensor) -> Tensor:
    """The attention alone, differentiable: qkv [B, N, 3, heads, d] -> [B, N, heads, d]."""
    q, k, v = qkv.permute(2, 0, 3, 1, 4)  # 3 x [B, heads, N, d]
    return functional.scaled_dot_product_attention(q, k, v).transpose(1, 2)


def _log_total(qkv: Tensor) -> Tensor:
    """Logarithm of the softmax's denominator [B, heads, N], an image at a time to spare memory."""
    dtype = compute_dtype(qkv.dtype)
    if qkv.shape[0] == 0:
        return qkv.new_zeros(0, qkv.shape[3], qkv.shape[1], dtype=dtype)
    logs = []
    for qkv_n in qkv.to(dtype):
        q, k, _ = qkv_n.permute(1, 2, 0, 3)  # 3 x [heads, N, d]
        logs.append((q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).logsumexp(-1))
    return torch.stack(logs)
