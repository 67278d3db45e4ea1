"""Dropout by Philox4x32-10, in plain PyTorch.

Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3" (2011). Words of 32
bits are kept in int64, whose products wrap around: their bits are right, whatever their sign.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vflow.ops.reference.precision import compute_dtype

_WORD = 0xFFFFFFFF
_MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
_KEY_STEPS = 0x9E3779B9, 0xBB67AE85
_ROUNDS = 10
_ROWS = 4  # that share a counter


def philox(counter: Sequence[Tensor], key: Sequence[Tensor]) -> list[Tensor]:
    """Four words of Philox4x32-10.

    Args:
        counter: Its four words, the lowest first.
        key: Its two words.

    Returns:
        The words, int64 below 2^32, of the shape that counter and key broadcast to.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        product0, product2 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0 = ((product2 >> 32) & _WORD) ^ c1 ^ k0
        c2 = ((product0 >> 32) & _WORD) ^ c3 ^ k1
        c1, c3 = product2 & _WORD, product0 & _WORD
        k0, k1 = (k0 + _KEY_STEPS[0]) & _WORD, (k1 + _KEY_STEPS[1]) & _WORD
    return [c0, c1, c2, c3]


def dropout(x: Tensor, seed: Tensor, dropout: float) -> Tensor:
    """See `vflow.ops.dropout`."""
    factors = dropout_factors(x, seed, dropout)
    return (x.to(factors.dtype) * factors).to(x.dtype)


def dropout_factors(x: Tensor, seed: Tensor, dropout: float) -> Tensor:
    """What dropout multiplies the elements of x [..., C] by, in the dtype of the arithmetic."""
    channels = x.shape[-1]
    rows = x.numel() // channels
    fours = (rows + _ROWS - 1) // _ROWS
    index = torch.arange(fours * channels, device=x.device).view(fours, channels)
    zero = torch.zeros_like(index)
    words = torch.stack(philox([index & _WORD, index >> 32, zero, zero], list(seed)), dim=1)
    kept = words.view(fours * _ROWS, channels)[:rows] >= int(dropout * 2**32)
    return kept.to(compute_dtype(x.dtype)).mul_(1 / (1 - dropout)).view(x.shape)
