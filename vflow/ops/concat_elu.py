"""elu of a tensor beside its negative, with dropout of the result where that is wanted."""

from __future__ import annotations

from torch import Tensor

from vflow.ops import exact
from vflow.ops.backend import Implementation, exact_cpu, native_cpu, native_cuda, triton_gpu
from vflow.ops.checks import check_dropout, check_rank, check_tensor
from vflow.ops.dropout import seed_for
from vflow.ops.launchers import concat_elu as launchers
from vflow.ops.library import Operation
from vflow.ops.reference import composition
from vflow.ops.reference import concat_elu as reference


def concat_elu(x: Tensor, dropout: float = 0.0, seed: Tensor | None = None) -> Tensor:
    """elu([x, -x]) along the last dimension: [..., C] -> [..., 2C], and dropout of that.

    Dropout is that of `vflow.ops.dropout`, of the result seen as [..., 2, C], in the same pass.

    Args:
        x: Input [..., C]. Half types are computed in float32.
        dropout: Probability that an element of the result becomes 0; the others are divided by
            1 - dropout.
        seed: Of that mask, int64 [2]; drawn if None.

    Returns:
        [..., 2C] in x's dtype, contiguous. Differentiable.

    Raises:
        ValueError: If x is not a floating tensor with a last dimension, dropout is not a number
            in [0, 1), seed is not of this kind and on x's device, or a backend asked for by name
            cannot run this.
    """
    check_tensor("x", x)
    check_rank("x", x, "[..., C]", 1)
    check_dropout(dropout)
    if dropout == 0:
        return _concat_elu(x)
    return _concat_elu_dropout(x, seed_for(x, seed), float(dropout))


_concat_elu_backward = Operation(
    "concat_elu_backward",
    "Tensor grad, Tensor x -> Tensor",
    fake=lambda grad, x: x.new_empty(x.shape),
    reference=Implementation(launch=reference.concat_elu_backward),
    cpu=native_cpu(launchers.concat_elu_backward),
    triton=triton_gpu("concat_elu", "concat_elu_backward"),
    cuda=native_cuda(launchers.concat_elu_backward),
)
_concat_elu = Operation(
    "concat_elu",
    "Tensor x -> Tensor",
    fake=lambda x: x.new_empty((*x.shape[:-1], 2 * x.shape[-1])),
    composition=composition.concat_elu,
    backward=_concat_elu_backward.run,
    reference=Implementation(launch=reference.concat_elu),
    cpu=native_cpu(launchers.concat_elu),
    triton=triton_gpu("concat_elu", "concat_elu"),
    cuda=native_cuda(launchers.concat_elu),
    exact=exact_cpu(exact.concat_elu),
)
_concat_elu_dropout_backward = Operation(
    "concat_elu_dropout_backward",
    "Tensor grad, Tensor x, Tensor seed, float dropout -> Tensor",
    fake=lambda grad, x, seed, dropout: x.new_empty(x.shape),
    reference=Implementation(launch=reference.concat_elu_dropout_backward),
    cpu=native_cpu(launchers.concat_elu_dropout_backward),
    triton=triton_gpu("concat_elu_dropout", "concat_elu_dropout_backward"),
    cuda=native_cuda(launchers.concat_elu_dropout_backward),
)
_concat_elu_dropout = Operation(
    "concat_elu_dropout",
    "Tensor x, Tensor seed, float dropout -> Tensor",
    fake=lambda x, seed, dropout: x.new_empty((*x.shape[:-1], 2 * x.shape[-1])),
    composition=composition.concat_elu_dropout,
    backward=_concat_elu_dropout_backward.run,
    reference=Implementation(launch=reference.concat_elu_dropout),
    cpu=native_cpu(launchers.concat_elu_dropout),
    triton=triton_gpu("concat_elu_dropout", "concat_elu_dropout"),
    cuda=native_cuda(launchers.concat_elu_dropout),
)
