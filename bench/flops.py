"""How much arithmetic a call does, counted alike for our models and others'."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.utils.flop_counter import FlopCounterMode

import vflow.ops.flops  # noqa: F401


def count_flops(call: Callable[[], Any]) -> int:
    """FLOPs of the convolutions, matrix products and attention in a call."""
    with FlopCounterMode(display=False) as counter:
        call()
    return int(counter.get_total_flops())
