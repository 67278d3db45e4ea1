"""Convolutions on NHWC activations, with Flow++'s data-dependent initialisation."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vflow.nets.half import WeightAndBias
from vflow.ops import backend, conv3x3, exact

INITIAL_STD = 0.05
VARIANCE_EPSILON = 1e-8
LEAST_NORM = 1e-10


class DataInitialized(nn.Module):
    """A linear map whose output is normalised over the first batch it sees.

    `vflow.models.initialization` calls `data_init` on a layer's first input, once, before the
    layer's own forward: so layers are initialised in order, each on the outputs of those before.

    Args:
        weight_shape: Shape of the weight, [out, ...].
        init_scale: Standard deviation of every output channel after initialisation.
        weight_norm: Whether each output's weights are a direction, `weight`, and a length, `gain`,
            which training finds apart (Salimans & Kingma, 2016).
    """

    def __init__(
        self, weight_shape: tuple[int, ...], init_scale: float, weight_norm: bool = False
    ) -> None:
        super().__init__()
        self.init_scale = init_scale
        self.weight = nn.Parameter(torch.randn(weight_shape).mul_(INITIAL_STD))
        self.gain = nn.Parameter(torch.ones(weight_shape[0])) if weight_norm else None
        self.bias = nn.Parameter(torch.zeros(weight_shape[0]))

    @torch.no_grad()
    def data_init(self, x: Tensor) -> None:
        """Rescale so that the output on `x` has mean 0 and std `init_scale` in every channel."""
        y = self.forward(x)
        variance, mean = torch.var_mean(y, dim=tuple(range(y.ndim - 1)), correction=0)
        inverse = torch.rsqrt(variance + VARIANCE_EPSILON)
        # A channel that is the same everywhere has nothing to be scaled by.
        scale = self.init_scale * torch.where(variance > VARIANCE_EPSILON, inverse, 1)
        self.bias.sub_(mean).mul_(scale)
        if self.gain is None:
            self.weight.mul_(_per_output(scale, self.weight))
        else:
            self.gain.mul_(scale)

    def acting_weight(self) -> Tensor:
        """What multiplies the input, [out, ...]."""
        if self.gain is None:
            return self.weight
        if backend.is_exact():
            norm = exact.norms(self.weight)
        else:
            norm = torch.linalg.vector_norm(self.weight, dim=tuple(range(1, self.weight.ndim)))
        return self.weight * _per_output(self.gain / norm.clamp_min(LEAST_NORM), self.weight)

    def cast_weights(self) -> WeightAndBias | None:
        """Weight and bias, if autocast would cast them as they are."""
        return (self.weight, self.bias) if self.gain is None else None

    def as_made(self) -> Tensor:
        """Whether the bias is still the constructor's, as a bool []."""
        return (self.bias == 0).all()


class Conv3x3(DataInitialized):
    """3x3 convolution with zero padding: [B, H, W, in] -> [B, H, W, out].

    In `torch.channels_last` the weight lies as the convolution wants it, and no pass makes a copy;
    contiguous, it can be flattened by `view`, as users of `parameters()` do.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        init_scale: float = 1.0,
        weight_norm: bool = False,
    ) -> None:
        super().__init__((out_channels, in_channels, 3, 3), init_scale, weight_norm)

    def cast_weights(self) -> WeightAndBias | None:
        """None on a CPU, whose convolution by tiles takes them in float32."""
        return super().cast_weights() if self.weight.is_cuda else None

    def forward(self, x: Tensor, given: WeightAndBias | None = None) -> Tensor:
        """Apply the convolution, with a weight and bias that are given or its own."""
        weight, bias = given or (self.acting_weight(), self.bias)
        return conv3x3(x, weight, bias)


class Pointwise(DataInitialized):
    """1x1 convolution, that is a linear map of the channels: [..., in] -> [..., out]."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        init_scale: float = 1.0,
        weight_norm: bool = False,
    ) -> None:
        super().__init__((out_channels, in_channels), init_scale, weight_norm)

    def forward(self, x: Tensor, given: WeightAndBias | None = None) -> Tensor:
        """Apply the map, with a weight and bias that are given or its own."""
        weight, bias = given or (self.acting_weight(), self.bias)
        if backend.is_exact():
            return exact.convolution(x, weight, bias)
        return F.linear(x, weight, bias)


def _per_output(factors: Tensor, weight: Tensor) -> Tensor:
    """Factors [out] as they multiply a weight [out, ...]."""
    return factors.view(-1, *(1,) * (weight.ndim - 1))
