"""Adam, its learning rate, the parameters' average, and steps that are skipped on the device."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

if TYPE_CHECKING:
    from vflow.train.config import OptimConfig

MAX_SKIPS_IN_A_ROW = 10


def learning_rate(step: int, config: OptimConfig) -> float:
    """The learning rate of the update made at `step`, counted from 0."""
    if step < config.warmup:
        return config.lr * (step + 1) / config.warmup
    return max(config.min_lr, config.lr * config.decay ** max(0, step - config.hold))


def make_adam(parameters: Iterable[nn.Parameter], config: OptimConfig) -> torch.optim.Adam:
    """Adam in one fused kernel, which reads `found_inf` on the device: see `SkipGuard`."""
    return torch.optim.Adam(parameters, lr=config.lr, betas=config.betas, fused=True)


class SkipGuard:
    """Decides, without the host waiting, whether a step is to be skipped.

    A step whose bits/dim or gradient norm is not finite is skipped: no parameter, average or
    optimiser state changes. After `MAX_SKIPS_IN_A_ROW` of them every later step is skipped too, so
    that the host may read the outcome late and still find everything as the first ten left it.
    """

    def __init__(self, device: torch.device) -> None:
        self.streak = torch.zeros((), device=device)
        """Steps skipped up to now without a good one between."""

    def judge(self, bits_per_dim: Tensor, grad_norm: Tensor) -> Tensor:
        """1.0 if the step is to be skipped, else 0.0: what the fused Adam calls found_inf."""
        finite = torch.isfinite(bits_per_dim) & torch.isfinite(grad_norm)
        skip = (~finite | (self.streak >= MAX_SKIPS_IN_A_ROW)).float()
        self.streak = (self.streak + 1) * skip
        return skip


class Ema(AveragedModel):
    """Exponential moving average of a model's parameters, from those it starts with.

    Torch's AveragedModel with an update of its own: one that a skipped step leaves without effect,
    and that never makes the host wait for the device.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        super().__init__(model)
        self.decay = decay
        self.module.requires_grad_(False)
        self.module.eval()

    @torch.no_grad()
    def update_parameters(self, model: nn.Module, skip: Tensor | None = None) -> None:
        """Move each average towards its parameter, unless `skip` (from `SkipGuard`) is 1."""
        averages: list[Tensor] = list(self.module.parameters())
        parameters: list[Tensor] = list(model.parameters())
        weight = 1.0 - self.decay
        steps = torch._foreach_sub(parameters, averages)
        torch._foreach_mul_(steps, weight if skip is None else weight * (1.0 - skip))
        torch._foreach_add_(averages, steps)
        self.n_averaged += 1


def adam_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's state as tensors: "exp_avg.<parameter>", "step.<parameter>" and so on."""
    return {
        f"{key}.{name}": value
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state[parameter].items()
    }


def load_adam_tensors(
    model: nn.Module, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]
) -> None:
    """Put back what `adam_tensors` gave."""
    state: dict[int, dict[str, Any]] = {}
    for index, (name, _) in enumerate(model.named_parameters()):
        keys = ("step", "exp_avg", "exp_avg_sq")
        state[index] = {key: tensors[f"{key}.{name}"] for key in keys}
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
