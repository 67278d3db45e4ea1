"""The gated convolution, the gated attention, and the block that joins them (Ho et al., 2019)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vflow.nets.half import Weights, apply_map
from vflow.nets.layers import Conv3x3, Pointwise
from vflow.ops import backend, concat_elu, dropout, exact, gated_residual_norm, self_attention

GATE_INIT_SCALE = 0.1


def apply_gate(x: Tensor, gate: Tensor) -> Tensor:
    """The gated residual x + a * sigmoid(b), with [a, b] = gate."""
    if backend.is_exact():
        return exact.gated_residual(x, gate)
    a, b = gate.chunk(2, dim=-1)
    return x + a * torch.sigmoid(b)


class GatedConv(nn.Module):
    """Gated residual convolution.

    Args:
        filters: Channels F of the input and output.
        context_channels: Channels of the context, as `ContextNetwork` gives it; None without one.
        second_kernel: 1 or 3, the width of the convolution that makes the gate.
        dropout: Probability of dropout before that convolution.
        weight_norm: Of all three maps.
    """

    def __init__(
        self,
        filters: int,
        context_channels: int | None = None,
        second_kernel: int = 1,
        dropout: float = 0.0,
        weight_norm: bool = False,
    ) -> None:
        super().__init__()
        self.conv1 = Conv3x3(2 * filters, filters, weight_norm=weight_norm)
        self.project = None
        if context_channels:
            self.project = Pointwise(context_channels, filters, weight_norm=weight_norm)
        second = {1: Pointwise, 3: Conv3x3}[second_kernel]
        self.conv2 = second(2 * filters, 2 * filters, GATE_INIT_SCALE, weight_norm)
        self.dropout = dropout

    def gate(
        self,
        x: Tensor,
        context: Tensor | None = None,
        seed: Tensor | None = None,
        weights: Weights | None = None,
    ) -> Tensor:
        """The gate [a, b]: x [B, H, W, F], context [B, H, W, Fc] -> [B, H, W, 2F].

        `seed` is dropout's, int64 [2]; drawn where it is None and needed.
        """
        hidden = apply_map(self.conv1, concat_elu(x), weights)
        if self.project is not None:
            assert context is not None
            hidden = hidden + apply_map(self.project, context, weights)
        hidden = concat_elu(hidden, self.dropout if self.training else 0.0, seed)
        return apply_map(self.conv2, hidden, weights)

    def forward(
        self, x: Tensor, context: Tensor | None = None, weights: Weights | None = None
    ) -> Tensor:
        """x [B, H, W, F] -> x + a * sigmoid(b) [B, H, W, F]."""
        return apply_gate(x, self.gate(x, context, weights=weights))


class GatedAttention(nn.Module):
    """Gated residual self-attention over all positions.

    Args:
        filters: Channels F of the input and output, a multiple of `heads`.
        heads: Number of heads.
        dropout: Probability of dropout on the heads' output (not on the attention weights).
        weight_norm: Of both maps.
    """

    def __init__(
        self, filters: int, heads: int, dropout: float = 0.0, weight_norm: bool = False
    ) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = Pointwise(filters, 3 * filters, weight_norm=weight_norm)
        self.out = Pointwise(filters, 2 * filters, GATE_INIT_SCALE, weight_norm)
        self.dropout = dropout

    def gate(
        self,
        x: Tensor,
        position: Tensor,
        seed: Tensor | None = None,
        weights: Weights | None = None,
    ) -> Tensor:
        """The gate [a, b]: x [B, H, W, F], position [H, W, F] -> [B, H, W, 2F].

        `seed` is dropout's, int64 [2]; drawn where it is None and needed.
        """
        qkv = apply_map(self.qkv, x + position, weights)
        # [B, H, W, 3F] -> [B, HW, 3, heads, F / heads] -> [B, HW, heads, F / heads]
        heads = self_attention(qkv.flatten(1, 2).unflatten(-1, (3, self.heads, -1)))
        heads = heads.reshape(x.shape)
        heads = dropout(heads, self.dropout if self.training else 0.0, seed)
        return apply_map(self.out, heads, weights)

    def forward(self, x: Tensor, position: Tensor) -> Tensor:
        """x [B, H, W, F] -> x + a * sigmoid(b) [B, H, W, F]."""
        return apply_gate(x, self.gate(x, position))


class GatedBlock(nn.Module):
    """Gated convolution, LayerNorm and, unless `heads` is None, gated attention, LayerNorm."""

    def __init__(
        self,
        filters: int,
        heads: int | None,
        context_channels: int | None = None,
        dropout: float = 0.0,
        second_kernel: int = 1,
        weight_norm: bool = False,
    ) -> None:
        super().__init__()
        self.conv = GatedConv(filters, context_channels, second_kernel, dropout, weight_norm)
        self.norm1 = nn.LayerNorm(filters)
        self.attention = GatedAttention(filters, heads, dropout, weight_norm) if heads else None
        self.norm2 = nn.LayerNorm(filters) if heads else None
        self.masks = 2 if heads else 1

    def forward(
        self,
        x: Tensor,
        position: Tensor | None,
        context: Tensor | None,
        seeds: Tensor | None = None,
        weights: Weights | None = None,
    ) -> Tensor:
        """x [B, H, W, F], position [H, W, F], context [B, H, W, Fc] -> [B, H, W, F].

        `seeds` are of its `masks` dropouts, int64 [masks, 2]; drawn where None and needed. Maps
        that are among `weights` take theirs from there.
        """
        norm1, norm2 = self.norm1, self.norm2
        seed1, *seed2 = (None, None) if seeds is None else seeds.unbind()
        gate = self.conv.gate(x, context, seed1, weights)
        x = gated_residual_norm(x, gate, norm1.weight, norm1.bias)
        if self.attention is not None and norm2 is not None:
            assert position is not None
            gate = self.attention.gate(x, position, seed2[0], weights)
            x = gated_residual_norm(x, gate, norm2.weight, norm2.bias)
        return x
