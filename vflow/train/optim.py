"""The optimiser, its learning rate, the parameters' average, and steps skipped on the device."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

if TYPE_CHECKING:
    from vflow.train.config import OptimConfig

MAX_SKIPS_IN_A_ROW = 10
MOMENTS = ("exp_avg", "exp_avg_sq")


def learning_rate(step: int, config: OptimConfig) -> float:
    """The learning rate of the update made at `step`, counted from 0."""
    if step < config.warmup:
        return config.lr * (step + 1) / config.warmup
    fallen = max(0, step - config.hold)
    if config.fall is None:
        return max(config.min_lr, config.lr * config.decay**fallen)
    share = min(1.0, fallen / config.fall)
    return config.lr ** (1 - share) * config.min_lr**share


class Adam:
    """Adam or AdamW in torch's fused kernel, with steps that a device decides to skip.

    Args:
        parameters: What is updated, by name.
        config: Peak learning rate, decay rates, weight decay.
        decoupled: AdamW.
    """

    def __init__(
        self, parameters: dict[str, nn.Parameter], config: OptimConfig, *, decoupled: bool
    ) -> None:
        self.parameters = parameters
        kind = torch.optim.AdamW if decoupled else torch.optim.Adam
        device = next(iter(parameters.values())).device
        # A CUDA graph may hold the update only if all of it is on the device; and a step has the
        # same bits within a graph and without if it always is.
        capturable = device.type == "cuda"
        lr = torch.tensor(config.lr, device=device) if capturable else config.lr
        self._optimizer: Any = kind(
            self.parameters.values(),
            lr=lr,
            betas=config.betas,
            weight_decay=config.weight_decay,
            fused=True,
            capturable=capturable,
        )

    def zero_grad(self) -> None:
        """Let the gradients go."""
        self._optimizer.zero_grad()

    def set_learning_rate(self, lr: float) -> None:
        """Set the learning rate of the steps to come."""
        for group in self._optimizer.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(lr)
            else:
                group["lr"] = lr

    def step(self, skip: Tensor) -> None:
        """Update the parameters, unless `skip` (from `SkipGuard`) is 1; the host does not wait."""
        self._optimizer.found_inf = skip
        self._optimizer.step()

    def tensors(self) -> dict[str, Tensor]:
        """The state as tensors: "exp_avg.<parameter>", "step.<parameter>" and so on."""
        return {
            f"{key}.{name}": value
            for name, parameter in self.parameters.items()
            for key, value in self._optimizer.state[parameter].items()
        }

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Put back what `tensors` gave."""
        state: dict[int, dict[str, Any]] = {}
        for index, (name, parameter) in enumerate(self.parameters.items()):
            state[index] = {"step": tensors[f"step.{name}"]}
            for key in MOMENTS:
                state[index][key] = like(parameter, tensors[f"{key}.{name}"])
        groups = self._optimizer.state_dict()["param_groups"]
        self._optimizer.load_state_dict({"state": state, "param_groups": groups})


def like(parameter: Tensor, values: Tensor) -> Tensor:
    """The values, laid out in memory as the parameter: a fused update goes by that alone."""
    return torch.empty_like(parameter, requires_grad=False).copy_(values)


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
        self.streak.add_(1).mul_(skip)  # in place: a CUDA graph knows the tensor by its address
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
        weight = torch.full((), 1.0 - self.decay, device=averages[0].device)
        if skip is not None:
            weight *= 1.0 - skip
        if weight.device.type == "cpu":
            for average, parameter in zip(averages, parameters, strict=True):
                average.lerp_(parameter, weight.to(average.dtype))
        else:  # three launches instead of one for each parameter
            steps = torch._foreach_sub(parameters, averages)
            torch._foreach_mul_(steps, weight)
            torch._foreach_add_(averages, steps)
