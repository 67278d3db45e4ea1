"""The network that reads the image for the conditional flows r(u|x) and q(z|x)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vflow.nets.gated import GatedConv
from vflow.nets.layers import Conv3x3
from vflow.nets.recompute import computed_again, may_recompute
from vflow.ops import concat_elu
from vflow.ops.reference.precision import autocast

CONTEXT_FILTERS = 32
CONTEXT_CHANNELS = 2 * CONTEXT_FILTERS  # concat_elu doubles them
CONTEXT_BLOCKS = 3


class ContextNetwork(nn.Module):
    """An image [B, H, W, C] -> features [B, H, W/2, 64] for every gated convolution of a flow.

    The image's checkerboard halves lie side by side in the channels, so that the features have
    the size of a half. They come after concat_elu: each convolution that takes them starts with it,
    and once is enough. With `recompute` only the image is kept for the backward pass.
    """

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.compute_dtype: torch.dtype | None = None
        self.recompute = False
        self.conv_in = Conv3x3(2 * in_channels, CONTEXT_FILTERS)
        self.blocks = nn.ModuleList(
            GatedConv(CONTEXT_FILTERS, second_kernel=3) for _ in range(CONTEXT_BLOCKS)
        )

    def forward(self, x: Tensor) -> Tensor:
        """x [B, H, W, C] -> features [B, H, W/2, 64]."""
        if self.recompute and may_recompute(self):
            return computed_again(self._features, x, draws=False)
        return self._features(x)

    def _features(self, x: Tensor) -> Tensor:
        dtype = self.compute_dtype
        with autocast(x.device.type, dtype):
            hidden = self.conv_in(torch.cat([x[:, :, 0::2], x[:, :, 1::2]], dim=-1))
            for block in self.blocks:
                hidden = block(hidden)
            return concat_elu(hidden).to(x.dtype)
