"""A coupling's network within a wider one that gives the same (Net2WiderNet; Chen et al., 2016).

Every channel of the narrow network is there several times, and what reads it shares its weight out
among the copies: by chance, so that their gradients differ and the copies learn to differ too.
Copies have the mean and variance of what they are copies of, so LayerNorm does to them what it did.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from vflow.nets.gated import GatedAttention, GatedBlock
from vflow.nets.trunk import Trunk

UNEVENNESS = 0.5
"""How far a copy's share may be from an even one, as a part of it."""


@torch.no_grad()
def widen_trunk(wide: Trunk, narrow: Trunk, copies: int, generator: torch.Generator) -> None:
    """Give what `narrow` gives, with `copies` times its filters.

    In evaluation mode that is the same function, up to rounding; dropout, in training, drops copies
    one by one.

    Args:
        wide: Of `copies` times the filters, and else of the same shape.
        narrow: The network to copy.
        copies: Of each channel.
        generator: Decides how weights are shared out, on the CPU.
    """
    write = _Writer(copies, generator)
    write.map(wide.conv_in, narrow.conv_in, outputs=1)
    if wide.position is not None and narrow.position is not None:
        wide.position.copy_(write.copied(narrow.position, -1, 1))
    for block, theirs in zip(wide.blocks, narrow.blocks, strict=True):
        assert isinstance(block, GatedBlock)
        assert isinstance(theirs, GatedBlock)
        write.map(block.conv.conv1, theirs.conv.conv1, inputs=2, outputs=1)
        if block.conv.project is not None and theirs.conv.project is not None:
            write.map(block.conv.project, theirs.conv.project, outputs=1)
        write.map(block.conv.conv2, theirs.conv.conv2, inputs=2, outputs=2)
        write.norm(block.norm1, theirs.norm1)
        if block.attention is not None and theirs.attention is not None:
            write.attention(block.attention, theirs.attention)
            assert block.norm2 is not None
            assert theirs.norm2 is not None
            write.norm(block.norm2, theirs.norm2)
    write.map(wide.conv_out, narrow.conv_out, inputs=2 if wide.final_elu else 1)


class _Writer:
    """Writes layers of a wide network.

    `inputs` and `outputs` say of how many equal parts a layer's channels are, each of which has its
    copies side by side: the halves of concat_elu, [a, b] of a gate, the heads of queries, keys and
    values. None is for channels of which there are no more than before.
    """

    def __init__(self, copies: int, generator: torch.Generator) -> None:
        self.copies = copies
        self.generator = generator

    def copied(self, numbers: Tensor, dim: int, parts: int) -> Tensor:
        """Each of `parts` equal parts along `dim`, as often as there are copies."""
        split = numbers.unflatten(dim, (parts, -1))
        dim = dim % numbers.ndim + 1
        return torch.cat([split] * self.copies, dim).flatten(dim - 1, dim)

    def shared_out(self, weight: Tensor, parts: int) -> Tensor:
        """A weight [out, in, ...] for copied inputs: shares of it, which add up to it."""
        split = weight.unflatten(1, (parts, -1))
        chance = torch.rand((self.copies, *split.shape), generator=self.generator).to(weight) - 0.5
        shares = (1 + 2 * UNEVENNESS * (chance - chance.mean(0))) / self.copies
        return torch.cat(list(shares * split), 2).flatten(1, 2)

    def map(
        self,
        wide: Any,
        narrow: Any,
        inputs: int | None = None,
        outputs: int | None = None,
    ) -> None:
        """A `DataInitialized` layer, or a `ZeroConv3x3`."""
        weight, bias, gain = narrow.weight, narrow.bias, getattr(narrow, "gain", None)
        if outputs is not None:
            weight, bias = self.copied(weight, 0, outputs), self.copied(bias, 0, outputs)
            gain = gain if gain is None else self.copied(gain, 0, outputs)
        before = weight
        if inputs is not None:
            weight = self.shared_out(weight, inputs)
        wide.weight.copy_(weight)
        wide.bias.copy_(bias)
        if gain is not None:  # the length of the weights, which sharing them out shortens
            wide.gain.copy_(gain * weight.flatten(1).norm(dim=1) / before.flatten(1).norm(dim=1))

    def norm(self, wide: nn.LayerNorm, narrow: nn.LayerNorm) -> None:
        """LayerNorm over the channels."""
        wide.weight.copy_(self.copied(narrow.weight, 0, 1))
        wide.bias.copy_(self.copied(narrow.bias, 0, 1))

    def attention(self, wide: GatedAttention, narrow: GatedAttention) -> None:
        """Heads of as many times the width.

        Products of queries and keys are so many times what they were, and divided by the root of
        that: the queries have to be smaller by as much.
        """
        self.map(wide.qkv, narrow.qkv, inputs=1, outputs=3 * wide.heads)
        queries = len(wide.qkv.weight) // 3
        for numbers in (wide.qkv.bias, wide.qkv.weight if wide.qkv.gain is None else wide.qkv.gain):
            numbers[:queries] *= self.copies**-0.5
        self.map(wide.out, narrow.out, inputs=wide.heads, outputs=2)
