"""NVIDIA apex, where it is present: its fused Adam, and how a step of it is skipped."""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor

HOW_TO_INSTALL = "see github.com/NVIDIA/apex; the package of that name on PyPI is another one"


def apex_fused_adam() -> Any:
    """The class apex.optimizers.FusedAdam.

    Raises:
        ValueError: If it cannot be imported, with the reason.
    """
    try:
        return importlib.import_module("apex.optimizers").FusedAdam
    except (ImportError, AttributeError) as error:
        reason = f"{error} ({HOW_TO_INSTALL})"
    raise ValueError(f"optimizer must be adam or adamw where there is no NVIDIA apex: {reason}")


class ApexScaling:
    """What apex's FusedAdam asks of a gradient scaler: whether to skip, and a scale of one.

    Args:
        device: That of the parameters.
    """

    def __init__(self, device: torch.device) -> None:
        self.skip = torch.zeros(1, device=device)
        self._scale = torch.ones(1, device=device)

    def _check_inf_per_device(self, _: object) -> dict[torch.device, Tensor]:
        return {self.skip.device: self.skip}

    def _get_scale_async(self) -> Tensor:
        return self._scale
