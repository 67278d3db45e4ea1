"""Invertible layers: `forward(x, context=None) -> (y, logdet [B])`, `inverse` likewise.

Images are NHWC. The layers between a split and its merge take and give a pair of halves. Each layer
tells the shape it gives (`output_shape`), and how it is widened or why it cannot be (`embed`).
"""

from vflow.flows.actnorm import ActNorm, ActNormConv1x1, ChannelActNormConv1x1
from vflow.flows.base import Compose, Flow, Halves, Inverse, PerHalf, Shape, Shapes
from vflow.flows.conditioned import Conditioned
from vflow.flows.couplings import (
    COUPLINGS,
    AffineCoupling,
    Coupling,
    GaussianAffineCoupling,
    MixLogisticCoupling,
)
from vflow.flows.elementwise import Centre, Preprocess, Sigmoid
from vflow.flows.embedding import CannotEmbed, Places
from vflow.flows.factor_out import FactorOut
from vflow.flows.reshape import ChannelSplit, CheckerboardSplit, SpaceToDepth, TupleFlip
from vflow.flows.residual import ResidualBlock
from vflow.flows.residual_images import ImageResidualBlock, no_logdet
from vflow.flows.top import ChannelWhitening

__all__ = [
    "COUPLINGS",
    "ActNorm",
    "ActNormConv1x1",
    "AffineCoupling",
    "CannotEmbed",
    "Centre",
    "ChannelActNormConv1x1",
    "ChannelSplit",
    "ChannelWhitening",
    "CheckerboardSplit",
    "Compose",
    "Conditioned",
    "Coupling",
    "FactorOut",
    "Flow",
    "GaussianAffineCoupling",
    "Halves",
    "ImageResidualBlock",
    "Inverse",
    "MixLogisticCoupling",
    "PerHalf",
    "Places",
    "Preprocess",
    "ResidualBlock",
    "Shape",
    "Shapes",
    "Sigmoid",
    "SpaceToDepth",
    "TupleFlip",
    "no_logdet",
]
