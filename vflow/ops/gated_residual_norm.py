"""Gated residual connection followed by LayerNorm."""

from __future__ import annotations

from torch import Tensor

from vflow.ops import exact
from vflow.ops.backend import Implementation, exact_cpu, native_cpu, native_cuda, triton_gpu
from vflow.ops.checks import check_device, check_rank, check_shape, check_tensor
from vflow.ops.launchers import gated_residual_norm as launchers
from vflow.ops.library import Operation
from vflow.ops.reference import composition
from vflow.ops.reference import gated_residual_norm as reference


def gated_residual_norm(
    x: Tensor,  # [..., F]
    ab: Tensor,  # [..., 2F]
    weight: Tensor,  # [F]
    bias: Tensor,  # [F]
) -> Tensor:
    """LayerNorm(x + a * sigmoid(b)) over the last dimension, eps 1e-5, with [a, b] = ab.

    The four may differ in dtype, so that float32 weights serve half-precision activations; half
    types are computed in float32.

    Args:
        x: Residual stream [..., F].
        ab: The branch's output [..., 2F].
        weight: LayerNorm's weight [F].
        bias: LayerNorm's bias [F].

    Returns:
        The next residual stream [..., F] in x's dtype. Differentiable.

    Raises:
        ValueError: If types, devices or shapes do not fit, or a backend asked for by name cannot
            run this.
    """
    check_tensor("x", x)
    check_rank("x", x, "[..., F]", 1)
    features = x.shape[-1]
    for name, value, requirement, shape in (
        ("ab", ab, "[..., 2F]", (*x.shape[:-1], 2 * features)),
        ("weight", weight, "[F]", (features,)),
        ("bias", bias, "[F]", (features,)),
    ):
        check_tensor(name, value)
        check_device(name, value, "x", x)
        check_shape(name, value, requirement, shape)
    return _gated_residual_norm(x, ab, weight, bias)


_gated_residual_norm_backward = Operation(
    "gated_residual_norm_backward",
    "Tensor grad, Tensor x, Tensor ab, Tensor weight, Tensor bias"
    " -> (Tensor, Tensor, Tensor, Tensor)",
    fake=lambda grad, *inputs: tuple(t.new_empty(t.shape) for t in inputs),
    reference=Implementation(launch=reference.gated_residual_norm_backward),
    cpu=native_cpu(launchers.gated_residual_norm_backward),
    triton=triton_gpu("gated_residual_norm", "gated_residual_norm_backward"),
    cuda=native_cuda(launchers.gated_residual_norm_backward),
)
_gated_residual_norm = Operation(
    "gated_residual_norm",
    "Tensor x, Tensor ab, Tensor weight, Tensor bias -> Tensor",
    fake=lambda x, ab, weight, bias: x.new_empty(x.shape),
    composition=composition.gated_residual_norm,
    backward=_gated_residual_norm_backward.run,
    reference=Implementation(launch=reference.gated_residual_norm),
    cpu=native_cpu(launchers.gated_residual_norm),
    triton=triton_gpu("gated_residual_norm", "gated_residual_norm"),
    cuda=native_cuda(launchers.gated_residual_norm),
    exact=exact_cpu(exact.gated_residual),
)
