"""Training: `train(TrainConfig(...))`, or `python -m vflow.train`."""

from __future__ import annotations

from vflow.train.config import ModelOverrides, OptimConfig, TrainConfig
from vflow.train.loop import train

__all__ = ["ModelOverrides", "OptimConfig", "TrainConfig", "train"]
