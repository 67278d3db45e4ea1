"""elu of a tensor beside its negative."""

from __future__ import annotations

from torch import Tensor

from vflow.ops.backend import Implementation, native_cpu, native_cuda, triton_gpu
from vflow.ops.checks import check_rank, check_tensor
from vflow.ops.cpu import concat_elu as cpu
from vflow.ops.cuda import concat_elu as cuda
from vflow.ops.library import Operation
from vflow.ops.reference import concat_elu as reference


def concat_elu(x: Tensor) -> Tensor:
    """elu([x, -x]) along the last dimension: [..., C] -> [..., 2C].

    Args:
        x: Input [..., C]. Half types are computed in float32.

    Returns:
        [..., 2C] in x's dtype, contiguous. Differentiable once.

    Raises:
        ValueError: If x is not a floating tensor with a last dimension, or a backend asked for by
            name cannot run this.
    """
    check_tensor("x", x)
    check_rank("x", x, "[..., C]", 1)
    return _concat_elu(x)


def _backward(backend: str, saved: tuple[Tensor, ...], grad: Tensor) -> Tensor:
    return _concat_elu_backward.op(grad, *saved, backend)


_concat_elu_backward = Operation(
    "concat_elu_backward",
    "Tensor grad, Tensor x -> Tensor",
    fake=lambda grad, x: x.new_empty(x.shape),
    reference=Implementation(launch=reference.concat_elu_backward),
    cpu=native_cpu(cpu.concat_elu_backward),
    triton=triton_gpu("concat_elu", "concat_elu_backward"),
    cuda=native_cuda(cuda.concat_elu_backward),
)
_concat_elu = Operation(
    "concat_elu",
    "Tensor x -> Tensor",
    fake=lambda x: x.new_empty((*x.shape[:-1], 2 * x.shape[-1])),
    backward=_backward,
    reference=Implementation(launch=reference.concat_elu),
    cpu=native_cpu(cpu.concat_elu),
    triton=triton_gpu("concat_elu", "concat_elu"),
    cuda=native_cuda(cuda.concat_elu),
)
