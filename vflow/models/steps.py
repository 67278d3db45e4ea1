"""How flows are put together from steps: ActNorm, 1x1 convolution, coupling, flip."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vflow.flows import (
    ActNormConv1x1,
    ChannelSplit,
    CheckerboardSplit,
    Compose,
    Flow,
    Inverse,
    MixLogisticCoupling,
    PerHalf,
    Sigmoid,
    SpaceToDepth,
    TupleFlip,
)
from vflow.models.config import FlowPlusPlusConfig
from vflow.nets import Trunk
from vflow.nets.context import CONTEXT_CHANNELS

LOG_2PI = math.log(2 * math.pi)
CONDITIONAL_STEPS = 4


def normal_log_prob(eps: Tensor) -> Tensor:
    """log N(eps; 0, I) [B] in nats."""
    return -0.5 * (eps.square() + LOG_2PI).flatten(1).sum(1)


@dataclass(frozen=True, kw_only=True)
class StepConfig:
    """The couplings of one flow: the paper's (B, F, K) and what goes with them."""

    blocks: int
    filters: int
    components: int
    heads: int | None
    """Attention heads; None for couplings without attention."""
    dropout: float
    squash: bool
    weight_std: float
    """The 1x1 convolutions start at I + weight_std * N(0, 1)."""
    context_channels: int | None = None

    @classmethod
    def of(
        cls,
        config: FlowPlusPlusConfig,
        blocks: int,
        attention: bool,
        weight_std: float,
        has_context: bool = False,
    ) -> StepConfig:
        """The couplings of one of a model's flows: p, q or r."""
        return cls(
            blocks=blocks,
            filters=config.filters,
            components=config.components,
            heads=config.heads if attention else None,
            dropout=config.dropout,
            squash=config.squash,
            weight_std=weight_std,
            context_channels=CONTEXT_CHANNELS if has_context else None,
        )

    def coupling(
        self, first: tuple[int, int, int], second: tuple[int, int, int]
    ) -> MixLogisticCoupling:
        """The coupling of halves of these [H, W, C]."""
        net = Trunk(
            first[-1],
            second[-1] * (2 + 3 * self.components),
            filters=self.filters,
            blocks=self.blocks,
            heads=self.heads,
            size=first[:2],
            context_channels=self.context_channels,
            dropout=self.dropout,
        )
        return MixLogisticCoupling(net, self.components, self.squash)


def split_steps(
    split: str, steps: int, shape: tuple[int, int, int], config: StepConfig
) -> list[Flow]:
    """Split images of shape [H, W, C], apply the steps, merge.

    An odd number of channels splits into unequal halves; the flip after each step swaps them.
    """
    height, width, channels = shape
    if split == "checkerboard":
        first = second = (height, width // 2, channels)
    else:
        first = (height, width, channels // 2)
        second = (height, width, channels - channels // 2)

    def splitter() -> Flow:
        return CheckerboardSplit() if split == "checkerboard" else ChannelSplit(first[-1])

    flows: list[Flow] = [splitter()]
    for _ in range(steps):
        linear = PerHalf(
            ActNormConv1x1(first, config.weight_std), ActNormConv1x1(second, config.weight_std)
        )
        flows += [linear, config.coupling(first, second), TupleFlip()]
        first, second = second, first
    return [*flows, Inverse(splitter())]


def image_flow(
    config: FlowPlusPlusConfig, weight_std: float, first: Iterable[Flow] = ()
) -> Compose:
    """The flow f of Table 4: `first`, steps at full size, SpaceToDepth, steps at half size."""
    steps = StepConfig.of(config, config.blocks, config.attention, weight_std)
    height, width = config.image_size
    shape = (height, width, config.total_channels)
    flows = list(first)
    for split, count in config.full_stages:
        flows += split_steps(split, count, shape, steps)
    flows.append(SpaceToDepth())
    shape = (height // 2, width // 2, 4 * config.total_channels)
    for split, count in config.half_stages:
        flows += split_steps(split, count, shape, steps)
    return Compose(flows)


class ConditionalFlow(nn.Module):
    """A density on (0, 1)^[H, W, C] given context features: checkerboard steps and a sigmoid.

    Run from noise to the variable, so that sampling with its log-density is one pass
    (Ho et al., 2019; Chen et al., 2020).
    """

    def __init__(self, shape: tuple[int, int, int], config: StepConfig) -> None:
        super().__init__()
        assert config.context_channels == CONTEXT_CHANNELS
        steps = split_steps("checkerboard", CONDITIONAL_STEPS, shape, config)
        self.flow = Compose([*steps, Sigmoid()])

    def forward(self, eps: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        """eps [B, H, W, C] ~ N(0, I) -> the variable [B, H, W, C], its log-density [B] in nats."""
        value, logdet = self.flow(eps, features)
        return value, normal_log_prob(eps) - logdet


def draw(shape: tuple[int, ...], like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Standard normal noise of the type and device of `like`, drawn on the generator's device."""
    device = generator.device if generator is not None else like.device
    noise = torch.randn(shape, generator=generator, device=device, dtype=like.dtype)
    return noise.to(like.device)
