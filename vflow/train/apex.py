"""NVIDIA apex, where it is present: its fused Adam, and how a step of it is skipped."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from vflow.train.optim import MOMENTS, Adam, like

if TYPE_CHECKING:
    from vflow.train.config import OptimConfig

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
    raise ValueError(
        f"optimizer must be adam, adamw or muon where there is no NVIDIA apex: {reason}"
    )


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


class ApexAdam(Adam):
    """NVIDIA apex's FusedAdam; its checkpoints are `Adam`'s. It keeps all it needs on the device.

    Raises:
        ValueError: If apex is not there, or is the unrelated package of that name.
    """

    def __init__(self, model: nn.Module, config: OptimConfig) -> None:
        self.parameters = dict(model.named_parameters())
        self._scaling = ApexScaling(next(model.parameters()).device)
        self._optimizer = apex_fused_adam()(
            list(self.parameters.values()),
            lr=config.lr,
            betas=config.betas,
            adam_w_mode=False,
            capturable=True,
        )
        (group,) = self._optimizer.param_groups
        group["step"] = torch.zeros(1, dtype=torch.int32, device=self._scaling.skip.device)

    def step(self, skip: Tensor) -> None:
        """Update the parameters, unless `skip` is 1."""
        self._scaling.skip.copy_(skip)
        # It counts a step unless the one before was skipped; told now, it does not count this one.
        self._optimizer._dummy_overflow_buf.copy_(skip)
        self._optimizer.step(grad_scaler=self._scaling)

    def tensors(self) -> dict[str, Tensor]:
        """The state, each parameter with the step that apex counts once for all."""
        (group,) = self._optimizer.param_groups
        found = {}
        for name, parameter in self.parameters.items():
            found[f"step.{name}"] = group["step"].float().reshape(())
            for key in MOMENTS:
                found[f"{key}.{name}"] = self._optimizer.state[parameter][key]
        return found

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Put back what `tensors` gave."""
        (group,) = self._optimizer.param_groups
        for name, parameter in self.parameters.items():
            group["step"] = tensors[f"step.{name}"].to(parameter.device, torch.int32).reshape(1)
            self._optimizer.state[parameter] = {
                key: like(parameter, tensors[f"{key}.{name}"]) for key in MOMENTS
            }
