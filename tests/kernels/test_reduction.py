"""Sums of partial results."""

from __future__ import annotations

import pytest
import torch

from tests.kernels.agreement import DEVICE


@pytest.mark.parametrize(
    "shape", [(1, 1), (3, 1), (1, 3), (5, 700), (700, 5), (2, 2500), (130, 33), (0, 4)], ids=str
)
def test_rows_and_columns(triton_kernels, shape):
    numbers = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    reduction = triton_kernels.reduction
    for found, dim in ((reduction.sum_rows(numbers), 1), (reduction.sum_columns(numbers), 0)):
        exact = numbers.sum(dim, dtype=torch.float64).float()
        torch.testing.assert_close(found, exact, rtol=1e-7, atol=1e-7)
