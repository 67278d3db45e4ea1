"""Self-attention over all positions of an image."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from vflow.ops import backend, exact, gpu, native
from vflow.ops.backend import Implementation, exact_cpu, native_cpu
from vflow.ops.checks import check_tensor, logdet_dtype
from vflow.ops.launchers import self_attention as launchers
from vflow.ops.library import Operation
from vflow.ops.reference import composition
from vflow.ops.reference import self_attention as reference
from vflow.ops.transforms import Once, batched, gradients_of, require_composition, transformed


def self_attention(qkv: Tensor) -> Tensor:
    """softmax(Q K^T / sqrt(d)) V over all positions, for each head.

    Heads of 8 to 24 numbers, as Flow++ has them, are where general attention kernels are slow on a
    CPU: the exponentials weigh as much as the products. Everywhere else this is PyTorch's
    scaled_dot_product_attention with its own gradient, which on a GPU is a fused kernel already.

    Args:
        qkv: Queries, keys and values [B, N, 3, heads, d]. Our kernels compute half types in
            float32; PyTorch's attention rounds them as it sees fit.

    Returns:
        [B, N, heads, d] in qkv's dtype. Differentiable.

    Raises:
        ValueError: If qkv is not a floating tensor of this shape, or a backend asked for by name
            cannot run this.
    """
    check_tensor("qkv", qkv)
    if qkv.ndim != 5 or qkv.shape[2] != 3 or min(qkv.shape[1:]) < 1:
        raise ValueError(f"qkv must have shape [B, N, 3, heads, d], got {tuple(qkv.shape)}")
    if transformed((qkv,)) or backend.choose(_self_attention.name, qkv) == "cpu":
        return _self_attention(qkv)[0]
    if backend.is_exact():
        return exact.self_attention(qkv)
    heads = reference.attend(qkv)  # with what PyTorch saves for its own gradient
    if heads.requires_grad and not torch.compiler.is_compiling():
        return _DifferentiableAgain.apply(heads, qkv)
    return heads


class _DifferentiableAgain(torch.autograd.Function):
    """Attention's output as it is; the gradient goes to PyTorch's own, which can be taken once.

    Where more is asked for, it goes from here to the input instead.
    """

    @staticmethod
    def forward(ctx: Any, heads: Tensor, qkv: Tensor) -> Tensor:
        ctx.save_for_backward(qkv)
        ctx.backend = backend.named()
        return heads.view_as(heads)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        again, many = torch.is_grad_enabled(), batched((grad,))
        if not again and not many:
            return grad, None
        (qkv,) = ctx.saved_tensors
        if ctx.backend in (None, "reference"):
            attend = lambda t: composition.self_attention(t)[0]  # noqa: E731
            return None, gradients_of(attend, (qkv,), (), (True,), (grad,))[0]
        if many:
            require_composition(_self_attention.name, ctx.backend)
        with torch.enable_grad():
            leaf = qkv.detach().requires_grad_()
            found = torch.autograd.grad(reference.attend(leaf), leaf, grad.detach())[0]
        return None, Once.apply(_self_attention.name, ctx.backend, 1, found, grad, qkv)[0]


def _empty(qkv: Tensor) -> tuple[Tensor, Tensor]:
    batch, positions, _, heads, width = qkv.shape
    return (
        qkv.new_empty(batch, positions, heads, width),
        qkv.new_empty(batch, heads, positions, dtype=logdet_dtype(qkv.dtype)),
    )


def _triton(launch: Callable[..., Any]) -> Implementation:
    """PyTorch's own kernel among those of a GPU backend: a model can run on them as a whole."""
    return Implementation(
        launch=launch, missing=gpu.triton_missing, capability=gpu.LEAST_CAPABILITY
    )


def _cuda(launch: Callable[..., Any]) -> Implementation:
    return Implementation(
        launch=launch, missing=native.cuda_missing, capability=native.LEAST_CAPABILITY
    )


_self_attention_backward = Operation(
    "self_attention_backward",
    "Tensor grad, Tensor grad_log_total, Tensor qkv, Tensor output, Tensor log_total -> Tensor",
    fake=lambda grad, grad_log_total, qkv, output, log_total: qkv.new_empty(qkv.shape),
    reference=Implementation(launch=reference.self_attention_backward),
    cpu=native_cpu(launchers.self_attention_backward),
    triton=_triton(reference.self_attention_backward),
    cuda=_cuda(reference.self_attention_backward),
)
_self_attention = Operation(
    "self_attention",
    "Tensor qkv -> (Tensor, Tensor)",
    fake=_empty,
    composition=composition.self_attention,
    backward=_self_attention_backward.run,
    # All scores again would cost more than the little that is kept: the outputs.
    saves_outputs=True,
    reference=Implementation(launch=reference.self_attention),
    exact=exact_cpu(exact.self_attention),
    cpu=native_cpu(launchers.self_attention),
    triton=_triton(reference.self_attention),
    cuda=_cuda(reference.self_attention),
)
