"""Linear maps of whole numbers: scales that are coded, and triangles that are exact."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vflow.ops import exact
from vflow.ops.coder import Affine, Coder


class LinearPlan:
    """(x * scale + bias) W as the coder takes it: scales, a permutation, and rounded sums.

    W = P L D U with unit triangles L and U; L D = D L' moves the diagonal to the scales, and
    triangles of ones act on whole numbers exactly (lifting).

    Args:
        scale: float64 [..., C].
        bias: float64 [..., C].
        weight: float64 [C, C].

    Raises:
        ValueError: If the weight is singular, or a scale is beyond what can be coded.
    """

    def __init__(self, scale: Tensor, bias: Tensor, weight: Tensor) -> None:
        order, lower, diagonal, upper = _factorize(weight.numpy())
        self.order = torch.from_numpy(order)
        self.inverse_order = torch.argsort(self.order)
        self.moves = bool((self.order != torch.arange(len(order))).any())
        d = torch.from_numpy(diagonal)
        slope, offset = scale[..., self.order] * d, bias[..., self.order] * d
        self.affine = Affine(slope.contiguous(), offset.contiguous())
        self.lower = torch.from_numpy(lower / diagonal[:, None] * diagonal).contiguous()
        self.upper = torch.from_numpy(upper).contiguous()

    def forward(self, x: Tensor, coder: Coder) -> Tensor:
        """x [B, ..., C] -> y alike."""
        if self.moves:
            x = x[..., self.order]
        y = coder.affine(x, self.affine)
        return exact.lift(exact.lift(y, self.lower, upper=False), self.upper, upper=True)

    def inverse(self, y: Tensor, coder: Coder) -> Tensor:
        """y [B, ..., C] -> x alike."""
        y = exact.lift(y, self.upper, upper=True, inverse=True)
        y = exact.lift(y, self.lower, upper=False, inverse=True)
        x = coder.affine_inverse(y, self.affine)
        return x[..., self.inverse_order] if self.moves else x


def _factorize(
    weight: NDArray[np.float64],
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """W[order] = L D U by elimination with row pivots: no library's, whose bits are its own."""
    work = weight.copy()
    size = len(work)
    order = np.arange(size)
    lower = np.eye(size)
    for j in range(size):
        pivot = j + int(np.abs(work[j:, j]).argmax())
        if not math.isfinite(work[pivot, j]) or work[pivot, j] == 0:
            raise ValueError("a 1x1 convolution's weight is singular and cannot be coded")
        for array in (work, order):
            array[[j, pivot]] = array[[pivot, j]]
        lower[[j, pivot], :j] = lower[[pivot, j], :j]
        for i in range(j + 1, size):
            lower[i, j] = work[i, j] / work[j, j]
            product = lower[i, j] * work[j]
            work[i] = work[i] - product
    diagonal = work.diagonal().copy()
    return order, lower, diagonal, np.triu(work) / diagonal[:, None]
