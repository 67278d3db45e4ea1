"""The inverse of the mixture-of-logistics coupling transform."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from vflow.ops.backend import Implementation, native_cpu, native_cuda, triton_gpu
from vflow.ops.launchers import mixlogistic as launchers
from vflow.ops.library import Operation
from vflow.ops.mixlogistic import check_mixture, empty_like_images, mixlogistic
from vflow.ops.reference import composition
from vflow.ops.reference import mixlogistic_inverse as reference
from vflow.ops.reference.mixlogistic import SQUASH_FLOOR
from vflow.ops.transforms import require_autograd


def mixlogistic_inverse(
    y: Tensor,  # [B, ..., C]
    params: Tensor,  # [B, ..., C, 2 + 3K]
    squash: bool = True,
) -> tuple[Tensor, Tensor]:
    """Invert `mixlogistic` by a bracketed Newton iteration.

    The CDF at the result meets the one that y asks for within 1e-6 in float32 and 1e-12 in float64,
    or within one rounding of x where a component is so narrow that neighbouring floats are further
    apart.

    With the squash, a y outside b +- 2.944 exp(a) has no pre-image: its CDF value is clipped to
    the nearest one inside (0, 1) that the dtype resolves, and the log-determinant is that at the
    clipped point, not meaningful as one of y. The result is finite for every finite y.

    Args:
        y: Output of `mixlogistic` [B, ..., C].
        params: The parameters it was made with [B, ..., C, 2 + 3K].
        squash: Whether it was made with the squash.

    Returns:
        x like y, contiguous, and logdet [B] of the inverse map in nats: minus that of `mixlogistic`
        at x. Both can be differentiated once, by the implicit function theorem; a clipped x
        follows the mixture alone.

    Raises:
        ValueError: If types, dtypes, devices or shapes do not fit, or a backend asked for by name
            cannot run this.
    """
    check_mixture("y", y, params)
    if torch.is_grad_enabled() and (y.requires_grad or params.requires_grad):
        require_autograd("mixlogistic_inverse", (y, params))
        x, logdet = _Implicit.apply(y, params, squash)
        return x, logdet
    return _invert(y, params, squash)


def _invert(y: Tensor, params: Tensor, squash: bool) -> tuple[Tensor, Tensor]:
    x, logdet = _mixlogistic_inverse(y.detach(), params.detach(), bool(squash))
    return x, logdet


class _Implicit(torch.autograd.Function):
    """The inverse x(y, p) of y = F(x, p): dx/dy = 1 / F_x and dx/dp = -F_p / F_x."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, params: Tensor, squash: bool) -> tuple[Tensor, Tensor]:
        x, logdet = _invert(y, params, squash)
        ctx.save_for_backward(x, y, params)
        ctx.squash = squash
        return x, logdet

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_x: Tensor, grad_logdet: Tensor) -> tuple[Tensor, Tensor, None]:
        saved_x, y, saved_params = ctx.saved_tensors
        with torch.enable_grad():
            x, params = (t.detach().requires_grad_() for t in (saved_x, saved_params))
            forward, forward_logdet = mixlogistic(x, params, ctx.squash)
            (slope,) = torch.autograd.grad(forward.sum(), x, retain_graph=True)
            # The log-determinant of the inverse is minus F's at x: by way of x, and of params.
            by_x, by_params = torch.autograd.grad(
                forward_logdet, (x, params), -grad_logdet.to(forward_logdet.dtype), True
            )
            along = (grad_x + by_x) / slope
            (through,) = torch.autograd.grad(forward, params, -along)
        if ctx.squash:  # a clipped x is a quantile of the mixture, whatever y, a and b are
            clipped = _is_clipped(y, saved_params)
            along = along.masked_fill(clipped, 0)
            through[..., :2].masked_fill_(clipped.unsqueeze(-1), 0)
        return along, by_params + through, None


def _is_clipped(y: Tensor, params: Tensor) -> Tensor:
    """Where y lies outside of what a squashed coupling reaches."""
    reach = math.log1p(-SQUASH_FLOOR) - math.log(SQUASH_FLOOR)
    return (y - params[..., 1]).abs() >= reach * params[..., 0].tanh().exp()


_mixlogistic_inverse = Operation(
    "mixlogistic_inverse",
    "Tensor y, Tensor params, bool squash -> (Tensor, Tensor)",
    fake=empty_like_images,
    composition=composition.mixlogistic_inverse,
    reference=Implementation(launch=reference.mixlogistic_inverse),
    cpu=native_cpu(launchers.mixlogistic_inverse),
    triton=triton_gpu("mixlogistic_inverse", "mixlogistic_inverse"),
    cuda=native_cuda(launchers.mixlogistic_inverse),
)
