"""elu of a tensor beside its negative, in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from vflow.ops.reference.precision import compute_dtype


def concat_elu(x: Tensor) -> Tensor:
    """See `vflow.ops.concat_elu`."""
    x_c = x.to(compute_dtype(x.dtype))
    return functional.elu_(torch.cat([x_c, -x_c], dim=-1)).to(x.dtype)


def concat_elu_backward(grad: Tensor, x: Tensor) -> Tensor:
    """Gradient of `concat_elu`, recomputed from its input alone."""
    dtype = compute_dtype(x.dtype)
    grad_elu, grad_neg_elu = grad.to(dtype).chunk(2, dim=-1)
    x_c = x.to(dtype)
    # elu' is 1 on the positive side and exp(x) on the negative one; exp(-|x|) serves both halves.
    slope = x_c.abs().neg_().exp_()
    positive = grad_elu - grad_neg_elu * slope
    negative = slope.mul_(grad_elu).sub_(grad_neg_elu)
    return torch.where(x_c > 0, positive, negative).to(x.dtype)
