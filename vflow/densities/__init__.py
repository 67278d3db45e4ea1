"""Densities made of flows, on tensors of any shape; each wraps the one before.

    FlowDensity(transform, shape)           p(x), exact
    Augmented(density, posterior, extra)    p(x, z) and q(z|x): a bound on log p(x)
    Dequantized(density, dequantizer)       P(pixels), with r(u|x)

VFlow = Dequantized(Augmented(FlowDensity)). Inside, images are NHWC.
"""

from vflow.densities.augmented import Augmented
from vflow.densities.base import Density, FlowDensity
from vflow.densities.bases import Normal, Uniform, normal_log_prob
from vflow.densities.conditional import ConditionalDensity
from vflow.densities.dequantized import Dequantized
from vflow.densities.importance import log_mean_exp

__all__ = [
    "Augmented",
    "ConditionalDensity",
    "Density",
    "Dequantized",
    "FlowDensity",
    "Normal",
    "Uniform",
    "log_mean_exp",
    "normal_log_prob",
]
