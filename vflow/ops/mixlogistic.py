"""The mixture-of-logistics coupling transform: schema, gradient, public function."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from vflow.ops.backend import Implementation, native_cpu, native_cuda, triton_gpu
from vflow.ops.checks import check_like, check_rank, check_tensor, logdet_dtype
from vflow.ops.launchers import mixlogistic as launchers
from vflow.ops.library import Operation
from vflow.ops.reference import composition
from vflow.ops.reference import mixlogistic as reference


def mixlogistic(
    x: Tensor,  # [B, ..., C]
    params: Tensor,  # [B, ..., C, 2 + 3K]
    squash: bool = True,
) -> tuple[Tensor, Tensor]:
    """Transform each element by a mixture of K logistics, squashed, scaled and shifted.

    y = logit(0.05 + 0.9 F(x)) * exp(a) + b, where F is the CDF of the mixture. The squash confines
    y to b +- 2.944 exp(a) and keeps its gradients from exploding. Log-scales are clamped at -7 from
    below (no gradient flows to one under the clamp). VFlow (Chen et al., 2020), Appendix B.

    Without the squash, y = logit(F(x)) * exp(a) + b, as in Flow++ (Ho et al., 2019).

    Args:
        x: Input [B, ..., C] of float16, bfloat16, float32 or float64. Half types are computed in
            float32.
        params: Parameters [B, ..., C, 2 + 3K], K >= 1, of x's dtype. For each element: a before its
            tanh, b, K logits, K means, K log-scales.
        squash: Whether the CDF is squashed to [0.05, 0.95] before the logit.

    Returns:
        y like x, contiguous, and logdet [B], the log-determinant in nats, of float32 (float64 for
        float64). Differentiable.

    Raises:
        ValueError: If types, dtypes, devices or shapes do not fit, or a backend asked for by name
            cannot run this.
    """
    check_mixture("x", x, params)
    outputs: tuple[Tensor, Tensor] = _mixlogistic(x, params, bool(squash))
    return outputs


def check_mixture(name: str, x: Any, params: Any) -> None:
    """Require x [B, ..., C] and params [B, ..., C, 2 + 3K]."""
    check_tensor(name, x)
    check_rank(name, x, "[B, ..., C]", 2)
    check_like("params", params, name, x)
    width = params.shape[-1] if params.ndim else 0
    if params.shape[:-1] != x.shape or width < 5 or width % 3 != 2:
        raise ValueError(
            f"params must have shape [B, ..., C, 2 + 3K] with K >= 1 and {name}'s "
            f"[B, ..., C] = {tuple(x.shape)}, got {tuple(params.shape)}"
        )


def empty_like_images(x: Tensor, params: Tensor, squash: bool) -> tuple[Tensor, Tensor]:
    """Outputs of the transform or of its inverse, unwritten."""
    return x.new_empty(x.shape), x.new_empty(x.shape[0], dtype=logdet_dtype(x.dtype))


def _empty_like_inputs(
    grad_y: Tensor, grad_logdet: Tensor, x: Tensor, params: Tensor, squash: bool
) -> tuple[Tensor, Tensor]:
    """Outputs of a backward pass, unwritten."""
    return x.new_empty(x.shape), params.new_empty(params.shape)


_mixlogistic_backward = Operation(
    "mixlogistic_backward",
    "Tensor grad_y, Tensor grad_logdet, Tensor x, Tensor params, bool squash -> (Tensor, Tensor)",
    fake=_empty_like_inputs,
    reference=Implementation(launch=reference.mixlogistic_backward),
    cpu=native_cpu(launchers.mixlogistic_backward),
    triton=triton_gpu("mixlogistic", "mixlogistic_backward"),
    cuda=native_cuda(launchers.mixlogistic_backward),
)
_mixlogistic = Operation(
    "mixlogistic",
    "Tensor x, Tensor params, bool squash -> (Tensor, Tensor)",
    fake=empty_like_images,
    composition=composition.mixlogistic,
    backward=_mixlogistic_backward.run,
    reference=Implementation(launch=reference.mixlogistic),
    cpu=native_cpu(launchers.mixlogistic),
    triton=triton_gpu("mixlogistic", "mixlogistic"),
    cuda=native_cuda(launchers.mixlogistic),
)
