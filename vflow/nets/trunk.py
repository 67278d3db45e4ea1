"""The network of an image coupling: one half of the image in, the other half's parameters out."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from vflow.nets.embedding import copy_parameters, embed_inputs, embed_outputs
from vflow.nets.gated import GatedBlock
from vflow.nets.half import apply_map, half_weights, to_dtype
from vflow.nets.layers import Conv3x3, DataInitialized
from vflow.nets.recompute import computed_again, may_recompute
from vflow.ops import concat_elu
from vflow.ops.dropout import draw_seeds
from vflow.ops.reference.precision import autocast

OUTPUT_INIT_SCALE = 0.1
POSITION_STD = 0.01


class Trunk(nn.Module):
    """conv 3x3, gated blocks, conv 3x3 (Flow++, Ho et al., 2019).

    `compute_dtype` may be set to a half precision type: the network then runs under autocast and
    its output is cast back to the input's type. Of the first `recomputed_blocks` only the inputs
    are kept for the backward pass, which computes each again: less memory for more time.

    Args:
        in_channels: Channels of the half that conditions.
        out_channels: Channels of the parameters.
        filters: Width F.
        blocks: Number of gated blocks.
        heads: Attention heads, None for blocks without attention.
        size: Height and width of the half; the position embedding of the attention needs it.
        context_channels: Channels of the context, None without one.
        dropout: Dropout probability within the blocks.
        weight_norm: Whether all its maps have weight normalisation.
        final_elu: Whether concat_elu comes before the last convolution, as in ImageNet's Flow++.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        filters: int,
        blocks: int,
        heads: int | None,
        size: tuple[int, int],
        context_channels: int | None = None,
        dropout: float = 0.0,
        weight_norm: bool = False,
        final_elu: bool = False,
    ) -> None:
        super().__init__()
        self.compute_dtype: torch.dtype | None = None
        self.recomputed_blocks = 0
        self.block_size = size[0] * size[1] * filters
        self.dropout = dropout
        self.position = (
            nn.Parameter(torch.randn(*size, filters).mul_(POSITION_STD)) if heads else None
        )
        self.final_elu = final_elu
        self.conv_in = Conv3x3(in_channels, filters, weight_norm=weight_norm)
        self.blocks = nn.ModuleList(
            GatedBlock(filters, heads, context_channels, dropout, weight_norm=weight_norm)
            for _ in range(blocks)
        )
        self.conv_out = Conv3x3(
            2 * filters if final_elu else filters, out_channels, OUTPUT_INIT_SCALE, weight_norm
        )
        self._maps = tuple(m for m in self.modules() if isinstance(m, DataInitialized))

    def draw_seeds(self, device: torch.device) -> Tensor | None:
        """Seeds of all masks of dropout in a pass, int64 [blocks, masks, 2]; None without any."""
        if not self.training or self.dropout == 0:
            return None
        masks = cast(GatedBlock, self.blocks[0]).masks
        return draw_seeds(len(self.blocks) * masks, device).unflatten(0, (-1, masks))

    def forward(
        self, x: Tensor, context: Tensor | None = None, seeds: Tensor | None = None
    ) -> Tensor:
        """x [B, H, W, in], context [B, H, W, Fc] -> [B, H, W, out].

        `seeds` is what `draw_seeds` gives; drawn if None.
        """
        dtype = self.compute_dtype
        if seeds is None:
            seeds = self.draw_seeds(x.device)
        again = self.recomputed_blocks if may_recompute(self) else 0
        with autocast(x.device.type, dtype):
            weights = half_weights(self._maps, dtype)
            # Once, and not in each block.
            position, context = to_dtype(dtype, self.position, context)
            hidden = apply_map(self.conv_in, x, weights)
            for index, block in enumerate(self.blocks):
                given = hidden, position, context, None if seeds is None else seeds[index]
                if index < again:  # without the weights, which would be kept until then
                    hidden = computed_again(block, *given, draws=False)
                else:
                    hidden = block(*given, weights)
            if self.final_elu:
                hidden = concat_elu(hidden)
            return apply_map(self.conv_out, hidden, weights).to(x.dtype)

    def embed(self, narrow: Trunk, inputs: Any, outputs: Any, resting: Tensor) -> None:
        """Give what `narrow` gives, blind to the extra inputs (`vflow.nets.embedding`)."""
        copy_parameters(self, narrow, without=("conv_in.weight", "conv_out"))
        embed_inputs(self.conv_in.weight, narrow.conv_in.weight, inputs)
        gain, narrow_gain = self.conv_out.gain, narrow.conv_out.gain
        if gain is None or narrow_gain is None:
            embed_outputs(self.conv_out.weight, narrow.conv_out.weight, outputs, None)
        else:  # what is to give nothing has no length, and keeps a direction to learn in
            with torch.no_grad():
                rows = self.conv_out.weight.unflatten(0, (outputs.total, -1))
                theirs = narrow.conv_out.weight.unflatten(0, (len(outputs.channels), -1))
                rows[list(outputs.channels)] = theirs
            embed_outputs(gain, narrow_gain, outputs, torch.zeros(1))
        embed_outputs(self.conv_out.bias, narrow.conv_out.bias, outputs, resting)
