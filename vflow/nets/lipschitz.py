"""The network of an invertible residual block: a contraction, whose Jacobian is at hand."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vflow.nets.embedding import embed_chain


class LipschitzMLP(nn.Module):
    """Fully connected layers with ELU between them, of Lipschitz constant below `coefficient`.

    Every layer's spectral norm is held at or below coefficient^(1 / number of layers), by dividing
    a matrix that has a larger one (Behrmann et al., 2019), and ELU's slope is at most 1. The norm
    is exact: power iteration would come from below, and at these widths saves nothing.

    Args:
        features: Features D of the input and the output.
        hidden: Width of the hidden layers.
        layers: Number of hidden layers, at least 1.
        coefficient: The bound, in (0, 1).
    """

    def __init__(self, features: int, *, hidden: int, layers: int, coefficient: float) -> None:
        super().__init__()
        widths = [features, *[hidden] * layers, features]
        self.linears = nn.ModuleList(
            nn.Linear(first, second) for first, second in itertools.pairwise(widths)
        )
        self.bound = coefficient ** (1 / len(self.linears))

    def weights(self) -> list[Tensor]:
        """The layers' matrices [out, in] as they act."""
        return [self._bounded(linear.weight) for linear in self.linears]  # type: ignore[arg-type]

    def _bounded(self, weight: Tensor) -> Tensor:
        norm = torch.linalg.matrix_norm(weight, ord=2)
        return weight / (norm / self.bound).clamp_min(1)

    def forward(self, x: Tensor, weights: list[Tensor] | None = None) -> Tensor:
        """x [B, D] -> g(x) [B, D]; with `weights` of before, they are not bounded again."""
        return self.linearize(x, weights)[0]

    def linearize(
        self, x: Tensor, weights: list[Tensor] | None = None
    ) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """The value at x and the Jacobian there, as a map of tangents.

        Args:
            x: [B, D].
            weights: What `weights()` gives, if it is known.

        Returns:
            g(x) [B, D], and the function that takes tangents [B, n, D] to J(x) times each of them.
        """
        weights = self.weights() if weights is None else weights
        slopes = []
        for weight, linear in zip(weights[:-1], self.linears, strict=False):
            before = F.linear(x, weight, linear.bias)  # type: ignore[arg-type]
            x = F.elu(before)
            slopes.append(torch.where(before > 0, 1.0, x + 1).unsqueeze(1))
        y = F.linear(x, weights[-1], self.linears[-1].bias)  # type: ignore[arg-type]

        def push(tangents: Tensor) -> Tensor:
            for weight, slope in zip(weights[:-1], slopes, strict=True):
                tangents = F.linear(tangents, weight) * slope
            return F.linear(tangents, weights[-1])

        return y, push

    def embed(self, narrow: LipschitzMLP, inputs: Any, outputs: Any, resting: Tensor) -> None:
        """Give what `narrow` gives, blind to the extra inputs: rows of zeros change no norm."""
        embed_chain(list(self.linears), list(narrow.linears), inputs, outputs, resting)
