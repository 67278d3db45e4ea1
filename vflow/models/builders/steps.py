"""How image flows are put together from steps: ActNorm, 1x1 convolution if any, coupling, flip."""

from __future__ import annotations

from dataclasses import dataclass

from vflow.flows import (
    ActNorm,
    ActNormConv1x1,
    ChannelSplit,
    CheckerboardSplit,
    Coupling,
    Flow,
    Inverse,
    PerHalf,
    Shape,
    TupleFlip,
)
from vflow.flows.couplings import CouplingSpec
from vflow.nets import Trunk

SPLITS = ("checkerboard", "channel")


@dataclass(frozen=True, kw_only=True)
class Steps:
    """The couplings of one flow: the paper's (B, F, K) and what goes with them."""

    coupling: CouplingSpec
    filters: int
    blocks: int
    heads: int | None
    """Attention heads; None for couplings without attention."""
    dropout: float
    weight_std: float
    """The 1x1 convolutions start at I + weight_std * N(0, 1)."""
    conv1x1: bool = True
    """Whether there are any."""
    weight_norm: bool = False
    final_elu: bool = False
    context_channels: int | None = None

    def make_coupling(self, first: Shape, second: Shape) -> Coupling:
        """The coupling of halves of these [H, W, C]."""
        height, width, channels = first
        net = Trunk(
            channels,
            second[-1] * self.coupling.parameters,
            filters=self.filters,
            blocks=self.blocks,
            heads=self.heads,
            size=(height, width),
            context_channels=self.context_channels,
            dropout=self.dropout,
            weight_norm=self.weight_norm,
            final_elu=self.final_elu,
        )
        return self.coupling.build(net)

    def make_linear(self, half: Shape) -> Flow:
        """The linear map of a half of this [H, W, C]."""
        return ActNormConv1x1(half, self.weight_std) if self.conv1x1 else ActNorm(half)


def split_steps(split: str, count: int, shape: Shape, steps: Steps) -> list[Flow]:
    """Split images of shape [H, W, C], apply the steps, merge.

    An odd number of channels splits into unequal halves; the flip after each step swaps them.
    """

    def splitter(kept: int) -> Flow:
        return CheckerboardSplit() if split == "checkerboard" else ChannelSplit(kept)

    flows = [splitter(shape[-1] // 2)]
    first, second = flows[0].output_shape(shape)
    for _ in range(count):
        linear = PerHalf(steps.make_linear(first), steps.make_linear(second))
        flows += [linear, steps.make_coupling(first, second), TupleFlip()]
        first, second = second, first
    return [*flows, Inverse(splitter(first[-1]))]
