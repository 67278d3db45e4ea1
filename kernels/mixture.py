"""Mixtures of K logistics for a tile of elements, [E, KP] in registers with KP >= K a power of two.

Components that only fill the tile have weight 0. Weights stay unnormalised, exp(logit - top), and
the CDF, the survival function and the density are sums over the components, each divided by exp of
a shift, so that none of them underflows however far x is from every component.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from vflow.kernels.launch import power_of_two, real_type
from vflow.kernels.math import clamp, exp, larger

MIN_LOG_SCALE = tl.constexpr(-7.0)


@triton.jit
def largest_over(REAL: tl.constexpr, divisor: tl.constexpr):
    """The largest finite number over `divisor`."""
    return (1.7976931348623157e308 if REAL == tl.float64 else 3.4028234663852886e38) / divisor


@triton.jit
def load_head(params, e, live, K: tl.constexpr, REAL: tl.constexpr):
    """a before its tanh, and b [E]; `params` points at the tile's first row."""
    row = params + e * (2 + 3 * K)
    return (
        tl.load(row, mask=live, other=0.0).to(REAL),
        tl.load(row + 1, mask=live, other=0.0).to(REAL),
    )


@triton.jit
def component_offsets(e, K: tl.constexpr, KP: tl.constexpr):
    """Offsets [E, KP] of the logits from the tile's first row; means and log-scales follow at K."""
    return e[:, None] * (2 + 3 * K) + (2 + tl.arange(0, KP))[None, :]


@triton.jit
def component_mask(live, K: tl.constexpr, KP: tl.constexpr):
    """Which of the tile's components there are [E, KP]."""
    if K == KP:
        mask = live[:, None] & (tl.arange(0, KP) >= 0)[None, :]
    else:
        mask = live[:, None] & (tl.arange(0, KP) < K)[None, :]
    return mask


@triton.jit
def load_components(params, e, live, K: tl.constexpr, KP: tl.constexpr, REAL: tl.constexpr):
    """Logits less the largest, means and log-scales as they are stored [E, KP]."""
    offsets, mask = component_offsets(e, K, KP), component_mask(live, K, KP)
    logit = tl.load(params + offsets, mask=mask, other=0.0).to(REAL)
    mean = tl.load(params + K + offsets, mask=mask, other=0.0).to(REAL)
    log_scale = tl.load(params + 2 * K + offsets, mask=mask, other=0.0).to(REAL)
    if K != KP:
        logit = tl.where((tl.arange(0, KP) < K)[None, :], logit, float("-inf"))
    return logit - tl.max(logit, 1)[:, None], mean, log_scale


@triton.jit
def clamped(log_scale):
    """The log-scale as it acts: at least -7."""
    return larger(log_scale, MIN_LOG_SCALE)


@triton.jit
def standardise(x, mean, inv_scale, REAL: tl.constexpr):
    """z [E, KP], kept finite: an infinite one would give inf - inf and 0 * inf further on."""
    limit = largest_over(REAL, 8)
    return clamp((x[:, None] - mean) * inv_scale, -limit, limit)


@triton.jit
def shifted_exp(log_terms):
    """exp of [E, KP] less the largest of each row, and that largest [E]."""
    top = tl.max(log_terms, 1)
    return exp(log_terms - top[:, None]), top


@triton.jit
def density_terms(logit, z, log_scale, near):
    """Each component's term of the density [E, KP], and the shift [E] they have in common.

    log pdf = -|z| - s - 2 log(1 + exp(-|z|)): the last, bounded term is `near`^2 and may leave log
    space.
    """
    term, shift = shifted_exp(logit - tl.abs(z) - log_scale)
    return term * near * near, shift


@triton.jit
def tail_terms(logit, z, near):
    """Terms of the CDF and of the survival function [E, KP] with their shifts [E]."""
    below, below_shift = shifted_exp(logit + tl.where(z < 0, z, 0.0))
    above, above_shift = shifted_exp(logit - tl.where(z > 0, z, 0.0))
    return below * near, below_shift, above * near, above_shift


class Tile:
    """How elements and components are cut into tiles, a tile a program and none over two images."""

    def __init__(self, x: Tensor, params: Tensor, size: int) -> None:
        """Plan tiles of about `size` components.

        Args:
            x: The elements as [B, positions, C].
            params: Their parameters [B, ..., C, 2 + 3K].
            size: A power of two.
        """
        self.elements = x.shape[1] * x.shape[2]
        components = (params.shape[-1] - 2) // 3
        padded = power_of_two(components)
        length = min(max(size // padded, 1), power_of_two(self.elements))
        self.numbers = length * padded
        self.blocks = triton.cdiv(self.elements, length)
        self.grid = (x.shape[0] * self.blocks,)
        self.constants: dict[str, Any] = {
            "C": x.shape[2],
            "K": components,
            "KP": padded,
            "E": length,
            "REAL": real_type(x.dtype),
            "enable_fp_fusion": True,
        }

    def warps(self, most: int) -> int:
        """At least four components a thread, at most `most` warps."""
        return max(1, min(most, self.numbers // 128))
