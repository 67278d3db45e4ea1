"""How far an implementation may be from the truth: one rule instead of scattered figures."""

from __future__ import annotations

import torch
from torch import Tensor

MULTIPLE = 3.0
ROUNDINGS = 8.0


def assert_within_budget(
    name: str,
    actual: Tensor,
    reference: Tensor,
    truth: Tensor,
    scale: float = 0.0,
    multiple: float = MULTIPLE,
) -> None:
    """Bound the error of `actual` by what its dtype makes unavoidable.

    The truth is the reference in float64 on the same (already rounded) inputs. The reference at the
    dtype under test shows what the problem's conditioning does to that dtype; an implementation
    that sums in another order or uses another exp may be a small multiple worse (3) but not more.
    Where the reference happens to be exact, a band of 8 roundings at the array's scale stands in.
    Errors are maxima over the array, as small elements that come from cancellation have no scale of
    their own. Where the whole array may be such a cancellation, as the log-determinant of a single
    element, `scale` is that of its terms. `multiple` is for a method known to lose more.
    """
    assert actual.dtype == reference.dtype, f"{name}: {actual.dtype}, not {reference.dtype}"
    assert actual.shape == reference.shape, f"{name}: {actual.shape}, not {reference.shape}"
    assert actual.isfinite().all(), f"{name} is not finite"
    if truth.numel() == 0:
        return
    error = (actual.double() - truth).abs().max().item()
    unavoidable = (reference.double() - truth).abs().max().item()
    band = ROUNDINGS * torch.finfo(actual.dtype).eps * max(truth.abs().max().item(), scale)
    budget = multiple * unavoidable + band
    assert error <= budget, f"{name}: error {error:.3g}, budget {budget:.3g}"


def relative_error(actual: Tensor, truth: Tensor) -> float:
    """The largest error, relative to the array's scale."""
    scale = truth.abs().max().clamp_min(torch.finfo(torch.float64).tiny)
    return ((actual.double() - truth).abs().max() / scale).item()
