"""What the tests of evaluation share: sizes, and how to look at results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

IMAGES, SAMPLES = 7, 5
TINY: dict[str, Any] = {"filters": 4, "components": 2, "image_size": 8}


def held_out_images(folder: Path) -> torch.Tensor:
    array = np.load(folder / "data" / "test.npy")
    return torch.from_numpy(array).permute(0, 3, 1, 2).contiguous()


def numbers(results: dict[str, Any]) -> list[float]:
    return [
        results[kind][figure]
        for kind in ("elbo_bits_per_dim", "bits_per_dim")
        for figure in ("mean", "stderr")
    ]
