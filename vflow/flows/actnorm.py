"""ActNorm, alone or fused with the invertible 1x1 convolution: the linear part of every step."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from vflow.flows.base import Flow
from vflow.flows.embedding import Places
from vflow.ops import actnorm_conv1x1, actnorm_conv1x1_inverse
from vflow.ops.coder import Affine, Coder
from vflow.ops.lifting import LinearPlan

VARIANCE_EPSILON = 1e-8
LEAST_SCALE = 1e-10


def has_spread(variance: Tensor, mean: Tensor) -> Tensor:
    """Where a variance is more than the rounding of equal values around their mean."""
    return variance > (8 * torch.finfo(mean.dtype).eps * mean).square()


class ActNormConv1x1(Flow):
    """y = (x * scale + bias) W, with scale and bias per element (Ho et al., 2019).

    Called once by `vflow.models.initialization` on its first input, `data_init` makes every
    element of x * scale + bias have mean 0 and standard deviation 1 over the batch; one that is the
    same in all of it is shifted only.

    Args:
        shape: Shape of one example, [H, W, C] of a half or [D] of a vector.
        weight_std: W starts at I + weight_std * N(0, 1).
    """

    def __init__(self, shape: tuple[int, ...], weight_std: float = 0.01) -> None:
        super().__init__()
        channels = shape[-1]
        self.scale = nn.Parameter(torch.ones(shape))
        self.bias = nn.Parameter(torch.zeros(shape))
        self.weight = nn.Parameter(
            torch.eye(channels) + weight_std * torch.randn(channels, channels)
        )

    @torch.no_grad()
    def data_init(self, x: Tensor, context: Tensor | None = None) -> None:
        """Set scale and bias from the batch x [B, *shape], B at least 2."""
        variance, mean = torch.var_mean(x, dim=0, correction=0)
        scale = torch.rsqrt(variance + VARIANCE_EPSILON)
        self.scale.copy_(torch.where(has_spread(variance, mean), scale, 1))
        self.bias.copy_(-mean * self.scale)

    def as_made(self) -> Tensor:
        """Whether scale and bias are still the constructor's, as a bool []."""
        return (self.scale == 1).all() & (self.bias == 0).all()

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """x [B, *shape] -> y [B, *shape], logdet [B]."""
        return actnorm_conv1x1(x, self.scale, self.bias, self.weight)

    def inverse(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """y [B, *shape] -> x [B, *shape], logdet [B]."""
        return actnorm_conv1x1_inverse(y, self.scale, self.bias, self.weight)

    rearranges = True  # its 1x1 convolution puts channels wherever the next layer wants them

    @torch.no_grad()
    def embed(self, narrow: Any, places: Places, wanted: Places | None = None) -> Places:
        """The extra channels pass by, to the places that are left, and back to their scale."""
        wanted = places if wanted is None else wanted
        here, there = list(places.channels), list(wanted.channels)
        self.scale.fill_(1)
        self.bias.zero_()
        self.weight.zero_()
        self.scale[..., here] = narrow.scale
        self.bias[..., here] = narrow.bias
        scales = torch.tensor(places.others_log_scales, dtype=torch.float64).neg().exp()
        self.weight[list(places.others), list(wanted.others)] = scales.to(self.weight)
        rows = torch.tensor(here, device=self.weight.device).unsqueeze(1)
        self.weight[rows, torch.tensor(there, device=self.weight.device)] = narrow.weight
        return Places(wanted.channels, wanted.total)

    def code(self, x: Tensor, coder: Coder, context: Tensor | None = None) -> Tensor:
        """x [B, *shape] -> y [B, *shape], int64: scales that are coded, and rounded sums."""
        return coder.plan(self, self._plan).forward(x, coder)

    def code_inverse(self, y: Tensor, coder: Coder, context: Tensor | None = None) -> Tensor:
        """y [B, *shape] -> x [B, *shape], int64."""
        return coder.plan(self, self._plan).inverse(y, coder)

    def _plan(self) -> LinearPlan:
        scale, bias, weight = (p.detach().double() for p in (self.scale, self.bias, self.weight))
        return LinearPlan(scale.clamp_min(LEAST_SCALE), bias, weight)


class ActNorm(Flow):
    """y = x * weight + bias, both per channel or per element (Kingma & Dhariwal, 2018).

    `data_init` makes every channel, or element, of y have mean 0 and standard deviation 1 over the
    batch; one that is the same in all of it is shifted only.

    Args:
        shape: [C], or [H, W, C] to have them per element.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(shape))
        self.bias = nn.Parameter(torch.zeros(shape))

    @torch.no_grad()
    def data_init(self, x: Tensor, context: Tensor | None = None) -> None:
        """Set weight and bias from the batch x [B, H, W, C], B at least 2."""
        rows = x.reshape(-1, *self.weight.shape)
        variance, mean = torch.var_mean(rows, dim=0, correction=0)
        scale = torch.rsqrt(variance + VARIANCE_EPSILON)
        self.weight.copy_(torch.where(has_spread(variance, mean), scale, 1))
        self.bias.copy_(-mean * self.weight)

    def as_made(self) -> Tensor:
        """Whether weight and bias are still the constructor's, as a bool []."""
        return (self.weight == 1).all() & (self.bias == 0).all()

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """x [B, H, W, C] -> y alike, logdet [B]."""
        return x * self.weight + self.bias, self._logdet(x)

    def inverse(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """y [B, H, W, C] -> x alike, logdet [B]."""
        return (y - self.bias) / self.weight, -self._logdet(y)

    def _logdet(self, x: Tensor) -> Tensor:
        times = x[0].numel() // self.weight.numel()
        return (times * self.weight.abs().log().sum()).expand(x.shape[0])

    def code(self, x: Tensor, coder: Coder, context: Tensor | None = None) -> Tensor:
        """x [B, H, W, C] -> y alike, int64: scales that are coded."""
        return coder.affine(x, coder.plan(self, self._plan))

    def code_inverse(self, y: Tensor, coder: Coder, context: Tensor | None = None) -> Tensor:
        """y [B, H, W, C] -> x alike, int64."""
        return coder.affine_inverse(y, coder.plan(self, self._plan))

    def _plan(self) -> Affine:
        return Affine(*(p.detach().double().contiguous() for p in (self.weight, self.bias)))

    @torch.no_grad()
    def embed(self, narrow: Any, places: Places) -> Places:
        """The extra channels pass by, back to their scale."""
        scales = torch.tensor(places.log_scales, dtype=torch.float64).neg().exp()
        self.weight[:] = scales.to(self.weight)
        self.bias.zero_()
        self.weight[..., list(places.channels)] = narrow.weight
        self.bias[..., list(places.channels)] = narrow.bias
        return Places(places.channels, places.total)


class ChannelActNormConv1x1(ActNormConv1x1):
    """y = (x * scale + bias) W, with scale and bias per channel (Kingma & Dhariwal, 2018).

    W starts as a random rotation. `data_init` is over the batch and all positions.

    Args:
        channels: Channels C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__((channels,))
        nn.init.orthogonal_(self.weight)

    @torch.no_grad()
    def data_init(self, x: Tensor, context: Tensor | None = None) -> None:
        """Set scale and bias from the batch x [B, H, W, C]."""
        super().data_init(x.flatten(0, -2))

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """x [B, H, W, C] -> y [B, H, W, C], logdet [B]."""
        return actnorm_conv1x1(x, *self._per_element(x), self.weight)

    def inverse(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """y [B, H, W, C] -> x [B, H, W, C], logdet [B]."""
        return actnorm_conv1x1_inverse(y, *self._per_element(y), self.weight)

    def _per_element(self, x: Tensor) -> tuple[Tensor, Tensor]:
        shape = x.shape[1:]
        return self.scale.expand(shape).contiguous(), self.bias.expand(shape).contiguous()
