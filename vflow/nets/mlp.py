"""The network of a coupling on vectors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from vflow.nets.embedding import embed_chain


class MLP(nn.Sequential):
    """Fully connected layers with leaky ReLU between them; the output starts at zero.

    With a zero output, an affine coupling starts as the identity.

    Args:
        in_features: Features of the input and of the context together; may be 0.
        out_features: Features of the output.
        hidden: Width of the hidden layers.
        layers: Number of hidden layers, at least 1.
        negative_slope: Of the leaky ReLU; 0 for ReLU.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        hidden: int,
        layers: int,
        negative_slope: float = 0.0,
    ) -> None:
        modules: list[nn.Module] = []
        width = in_features
        for _ in range(layers):
            modules += [nn.Linear(width, hidden), nn.LeakyReLU(negative_slope)]
            width = hidden
        output = nn.Linear(width, out_features)
        nn.init.zeros_(output.weight)
        nn.init.zeros_(output.bias)
        super().__init__(*modules, output)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """x [B, in], context [B, Fc] -> [B, out]; x and context together have `in_features`."""
        return super().forward(x if context is None else torch.cat([x, context], dim=-1))

    def embed(self, narrow: MLP, inputs: Any, outputs: Any, resting: Tensor) -> None:
        """Give what `narrow` gives, blind to the extra inputs (`vflow.nets.embedding`)."""
        embed_chain(list(self)[::2], list(narrow)[::2], inputs, outputs, resting)
