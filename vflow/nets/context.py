"""The network that reads the image for the conditional flows r(u|x) and q(z|x)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vflow.nets.gated import GatedBlock, GatedConv
from vflow.nets.half import apply_map, half_weights, to_dtype
from vflow.nets.layers import Conv3x3, DataInitialized
from vflow.nets.trunk import POSITION_STD
from vflow.ops import concat_elu
from vflow.ops.reference.precision import autocast

CONTEXT_FILTERS = 32
CONTEXT_CHANNELS = 2 * CONTEXT_FILTERS  # concat_elu doubles them
CONTEXT_BLOCKS = 3
CONTEXT_HEADS = 4
CONTEXT_LAYERS = ("conv", "conv-norm", "conv-norm-attention")


class ContextNetwork(nn.Module):
    """An image [B, H, W, C] -> features [B, H, W/2, 64] for every gated convolution of a flow.

    The image's checkerboard halves lie side by side in the channels, so that the features have
    the size of a half. They come after concat_elu: each convolution that takes them starts with it,
    and once is enough.

    Args:
        in_channels: Channels C.
        size: Height and width of the image.
        blocks: How many.
        layers: What each block is: "conv" a gated convolution, "conv-norm" one with LayerNorm,
            "conv-norm-attention" that with gated attention and LayerNorm.
        weight_norm: Whether all its maps have weight normalisation.
    """

    def __init__(
        self,
        in_channels: int,
        size: tuple[int, int],
        *,
        blocks: int = CONTEXT_BLOCKS,
        layers: str = "conv",
        weight_norm: bool = False,
    ) -> None:
        super().__init__()
        self.compute_dtype: torch.dtype | None = None
        self.conv_in = Conv3x3(2 * in_channels, CONTEXT_FILTERS, weight_norm=weight_norm)
        heads = CONTEXT_HEADS if layers == "conv-norm-attention" else None
        self.position: nn.Parameter | None = None
        if heads:
            position = torch.randn(size[0], size[1] // 2, CONTEXT_FILTERS)
            self.position = nn.Parameter(position * POSITION_STD)

        def block() -> nn.Module:
            if layers == "conv":
                return GatedConv(CONTEXT_FILTERS, second_kernel=3, weight_norm=weight_norm)
            return GatedBlock(CONTEXT_FILTERS, heads, second_kernel=3, weight_norm=weight_norm)

        self.blocks = nn.ModuleList(block() for _ in range(blocks))
        self._maps = tuple(m for m in self.modules() if isinstance(m, DataInitialized))

    def forward(self, x: Tensor) -> Tensor:
        """x [B, H, W, C] -> features [B, H, W/2, 64]."""
        dtype = self.compute_dtype
        with autocast(x.device.type, dtype):
            weights = half_weights(self._maps, dtype)
            (position,) = to_dtype(dtype, self.position)
            halves = torch.cat([x[:, :, 0::2], x[:, :, 1::2]], dim=-1)
            hidden = apply_map(self.conv_in, halves, weights)
            for block in self.blocks:
                if isinstance(block, GatedBlock):
                    hidden = block(hidden, position, None, weights=weights)
                else:
                    hidden = block(hidden, weights=weights)
            return concat_elu(hidden).to(x.dtype)
