"""Evaluation: `evaluate(EvaluateConfig(...))`, or `vflow evaluate`."""

from __future__ import annotations

from vflow.evaluate.config import EvaluateConfig
from vflow.evaluate.evaluation import evaluate
from vflow.evaluate.importance import estimate_bound, importance_sample
from vflow.io.evaluations import summary

__all__ = [
    "EvaluateConfig",
    "estimate_bound",
    "evaluate",
    "importance_sample",
    "summary",
]
