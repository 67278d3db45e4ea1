"""The inverse of the mixture-of-logistics coupling transform."""

from __future__ import annotations

from torch import Tensor

from vflow.ops.backend import Implementation, native_cpu, native_cuda, triton_gpu
from vflow.ops.launchers import mixlogistic as launchers
from vflow.ops.library import Operation
from vflow.ops.mixlogistic import check_mixture, empty_like_images
from vflow.ops.reference import composition
from vflow.ops.reference import mixlogistic_inverse as reference


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
        at x. No gradients flow.

    Raises:
        ValueError: If types, dtypes, devices or shapes do not fit, or a backend asked for by name
            cannot run this.
    """
    check_mixture("y", y, params)
    inverse = _mixlogistic_inverse if squash else _mixlogistic_unsquashed_inverse
    return inverse(y.detach(), params.detach())


_mixlogistic_inverse = Operation(
    "mixlogistic_inverse",
    "Tensor y, Tensor params -> (Tensor, Tensor)",
    fake=empty_like_images,
    composition=composition.mixlogistic_inverse,
    reference=Implementation(launch=reference.mixlogistic_inverse),
    cpu=native_cpu(launchers.mixlogistic_inverse, squash=True),
    triton=triton_gpu("mixlogistic_inverse", "mixlogistic_inverse", squash=True),
    cuda=native_cuda(launchers.mixlogistic_inverse, squash=True),
)

_mixlogistic_unsquashed_inverse = Operation(
    "mixlogistic_unsquashed_inverse",
    "Tensor y, Tensor params -> (Tensor, Tensor)",
    fake=empty_like_images,
    composition=composition.mixlogistic_unsquashed_inverse,
    reference=Implementation(launch=reference.mixlogistic_unsquashed_inverse),
    cpu=native_cpu(launchers.mixlogistic_inverse, squash=False),
    triton=triton_gpu("mixlogistic_inverse", "mixlogistic_inverse", squash=False),
    cuda=native_cuda(launchers.mixlogistic_inverse, squash=False),
)
