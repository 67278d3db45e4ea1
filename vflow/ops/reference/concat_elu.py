"""elu of a tensor beside its negative, in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from vflow.ops.reference.dropout import dropout_factors
from vflow.ops.reference.precision import compute_dtype


def concat_elu(x: Tensor) -> Tensor:
    """See `vflow.ops.concat_elu`."""
    return _concat_elu(x).to(x.dtype)


def concat_elu_backward(grad: Tensor, x: Tensor) -> Tensor:
    """Gradient of `concat_elu`, recomputed from its input alone."""
    return _gradient(grad.to(compute_dtype(x.dtype)), x).to(x.dtype)


def concat_elu_dropout(x: Tensor, seed: Tensor, dropout: float) -> Tensor:
    """See `vflow.ops.concat_elu`."""
    y = _concat_elu(x)
    return (y * _factors(y, seed, dropout)).to(x.dtype)


def concat_elu_dropout_backward(grad: Tensor, x: Tensor, seed: Tensor, dropout: float) -> Tensor:
    """Gradient of `concat_elu_dropout`, recomputed from its input and the seed."""
    grad = grad.to(compute_dtype(x.dtype))
    return _gradient(grad * _factors(grad, seed, dropout), x).to(x.dtype)


def _factors(y: Tensor, seed: Tensor, dropout: float) -> Tensor:
    halves = y.unflatten(-1, (2, y.shape[-1] // 2))
    return dropout_factors(halves, seed, dropout).flatten(-2)


def _concat_elu(x: Tensor) -> Tensor:
    x_c = x.to(compute_dtype(x.dtype))
    return functional.elu_(torch.cat([x_c, -x_c], dim=-1))


def _gradient(grad: Tensor, x: Tensor) -> Tensor:
    grad_elu, grad_neg_elu = grad.chunk(2, dim=-1)
    x_c = x.to(grad.dtype)
    # elu' is 1 on the positive side and exp(x) on the negative one; exp(-|x|) serves both halves.
    slope = x_c.abs().neg_().exp_()
    positive = grad_elu - grad_neg_elu * slope
    negative = slope.mul_(grad_elu).sub_(grad_neg_elu)
    return torch.where(x_c > 0, positive, negative)
