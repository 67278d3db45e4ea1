"""VFlow's toy study (Chen et al., 2020, Sec. 5): why widening helps, on densities of the plane.

`vflow toy` or `python -m vflow.toy`.
"""

from __future__ import annotations

from vflow.toy.config import Experiment, ToyConfig
from vflow.toy.densities import DENSITIES, Density
from vflow.toy.study import toy

__all__ = ["DENSITIES", "Density", "Experiment", "ToyConfig", "toy"]
