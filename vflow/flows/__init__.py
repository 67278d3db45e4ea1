"""Invertible layers: `forward(x, context=None) -> (y, logdet [B])`, `inverse` likewise.

Images are NHWC. The layers between a split and its merge take and give a pair of halves.
"""

from vflow.flows.actnorm import ActNormConv1x1
from vflow.flows.base import Compose, Flow, Halves, Inverse, PerHalf
from vflow.flows.coupling import AffineCoupling, GaussianAffineCoupling, MixLogisticCoupling
from vflow.flows.elementwise import Preprocess, Sigmoid
from vflow.flows.reshape import ChannelSplit, CheckerboardSplit, SpaceToDepth, TupleFlip
from vflow.flows.residual import ResidualBlock

__all__ = [
    "ActNormConv1x1",
    "AffineCoupling",
    "ChannelSplit",
    "CheckerboardSplit",
    "Compose",
    "Flow",
    "GaussianAffineCoupling",
    "Halves",
    "Inverse",
    "MixLogisticCoupling",
    "PerHalf",
    "Preprocess",
    "ResidualBlock",
    "Sigmoid",
    "SpaceToDepth",
    "TupleFlip",
]
