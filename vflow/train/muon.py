"""Muon: for the networks' matrices, steps of which every direction is as long as any other."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vflow.flows.base import Flow
from vflow.train.optim import Adam

if TYPE_CHECKING:
    from vflow.train.config import OptimConfig

MOMENTUM = 0.95
ITERATIONS = 5
QUINTIC = 3.4445, -4.7750, 2.0315
LEAST_NORM = 1e-7
MOST_ROWS = 128
"""Matrices of more are worked on in blocks of rows: the work grows with the square of the rows."""
ADAM_LENGTH = 0.2
"""Root mean square of the elements of Adam's steps at rate 1, about: one rate serves both."""


def orthogonalized(matrices: Tensor) -> Tensor:
    """About the nearest matrices whose singular values are all 1, [n, rows, columns].

    Newton and Schulz's iteration with the coefficients of Jordan et al. (2024): five steps
    X <- (a + b G + c G^2) X, G = X X^T, that take singular values above a thousandth of the norm to
    between 0.7 and 1.2, which is as good for learning as 1. The factors are polynomials of the
    first G, which commute: they are multiplied with one another, rows x rows, and with X at the
    end.
    """
    a, b, c = QUINTIC
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True).clamp_min(LEAST_NORM)
    gram = x @ x.mT
    product: Tensor | None = None
    for step in range(ITERATIONS):
        factor = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        factor.diagonal(dim1=1, dim2=2).add_(a)
        product = factor if product is None else factor @ product
        if step < ITERATIONS - 1:
            gram = factor @ gram @ factor
    x = product @ x
    return x.mT if tall else x


def network_matrices(model: nn.Module) -> dict[str, nn.Parameter]:
    """The weights of linear maps and convolutions in a model's networks, by name.

    Not those of the flow's own layers: an invertible 1x1 convolution is a change of volume, too.
    """
    return {
        f"{path}.weight" if path else "weight": module.weight
        for path, module in model.named_modules()
        if not isinstance(module, Flow)
        and isinstance(getattr(module, "weight", None), nn.Parameter)
        and module.weight.ndim in (2, 4)
    }


class Muon(Adam):
    """Muon (Jordan et al., 2024) for the networks' matrices, Adam for all other parameters.

    The momentum of a matrix [out, in] or convolution [out, in * 3 * 3] is made orthogonal before it
    is taken off, times 0.2 sqrt(max(rows, columns)) (Liu et al., 2025), so that steps are as long
    as Adam's are at the same rate. Matrices of one shape are worked on together.

    Args:
        model: Its parameters are what is updated.
        config: Peak learning rate; Adam's decay rates.
    """

    def __init__(self, model: nn.Module, config: OptimConfig) -> None:
        matrices = network_matrices(model)
        others = {n: p for n, p in model.named_parameters() if n not in matrices}
        super().__init__(others, config, decoupled=False)
        by_shape: dict[tuple[int, int], dict[str, nn.Parameter]] = defaultdict(dict)
        for name, parameter in matrices.items():
            rows = parameter.shape[0]
            by_shape[rows, parameter.numel() // rows][name] = parameter
        self._stacks = [_Stack(shape, named) for shape, named in by_shape.items()]
        # On the device, where a CUDA graph looks for it at every step.
        self._lr = torch.tensor(config.lr, device=next(model.parameters()).device)

    def zero_grad(self) -> None:
        """Let the gradients go."""
        super().zero_grad()
        for stack in self._stacks:
            for parameter in stack.parameters.values():
                parameter.grad = None

    def set_learning_rate(self, lr: float) -> None:
        """Set the learning rate of the steps to come."""
        super().set_learning_rate(lr)
        self._lr.fill_(lr)

    def step(self, skip: Tensor) -> None:
        """Update the parameters, unless `skip` is 1; the host does not wait."""
        super().step(skip)
        lr = self._lr * (1 - skip)
        for stack in self._stacks:
            stack.step(lr, skip)

    def tensors(self) -> dict[str, Tensor]:
        """The state as tensors: Adam's, and "momentum.<parameter>" for each matrix."""
        found = super().tensors()
        for stack in self._stacks:
            for name, momentum in zip(stack.parameters, stack.momentum, strict=True):
                found[f"momentum.{name}"] = momentum.clone()
        return found

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Put back what `tensors` gave."""
        super().load_tensors(tensors)
        for stack in self._stacks:
            for name, momentum in zip(stack.parameters, stack.momentum, strict=True):
                momentum.copy_(tensors[f"momentum.{name}"])


class _Stack:
    """Matrices of one shape, by name."""

    def __init__(self, shape: tuple[int, int], parameters: dict[str, nn.Parameter]) -> None:
        self.shape, self.parameters = shape, parameters
        first, *_ = parameters.values()
        self.momentum = first.new_zeros(len(parameters), *shape)

    @torch.no_grad()
    def step(self, lr: Tensor, skip: Tensor) -> None:
        found = self.parameters.values()
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in found]
        now = torch.stack([gradient.reshape(self.shape) for gradient in gradients])
        # Of a step to be skipped nothing may be looked at: what is not finite stays so times 0.
        now = torch.where(skip > 0, self.momentum, now)
        self.momentum.lerp_(now, 1 - MOMENTUM)
        ahead = now.lerp(self.momentum, MOMENTUM)  # Nesterov's
        rows, columns = self.shape
        blocks = math.ceil(rows / MOST_ROWS)
        height = math.ceil(rows / blocks)
        # Rows of zeros change nothing for the others, and stay what they are.
        padded = F.pad(ahead, (0, 0, 0, blocks * height - rows)).view(-1, height, columns)
        steps = orthogonalized(padded).reshape(-1, blocks * height, columns)
        steps = steps * (lr * -ADAM_LENGTH * math.sqrt(max(height, columns)))
        for parameter, step in zip(found, steps, strict=True):
            parameter.add_(step[:rows].view(parameter.shape))
