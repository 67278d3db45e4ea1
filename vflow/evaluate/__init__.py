"""Evaluation: `evaluate(EvaluateConfig(...))`, or `vflow evaluate`."""

from __future__ import annotations

from vflow.evaluate.config import EvaluateConfig
from vflow.evaluate.evaluation import evaluate, summary
from vflow.evaluate.importance import importance_sample

__all__ = [
    "EvaluateConfig",
    "evaluate",
    "importance_sample",
    "summary",
]
