"""The networks inside couplings: they take NHWC activations and give coupling parameters."""

from vflow.nets.context import ContextNetwork
from vflow.nets.gated import GatedAttention, GatedBlock, GatedConv
from vflow.nets.glow import GlowNet, ZeroConv
from vflow.nets.layers import Conv3x3, Pointwise
from vflow.nets.lipschitz import LipschitzMLP
from vflow.nets.lipschitz_images import LipschitzConvNet, LipschitzDenseNet, LipschitzNet
from vflow.nets.mlp import MLP
from vflow.nets.trunk import Trunk
from vflow.nets.zero_conv import ZeroConv3x3

__all__ = [
    "MLP",
    "ContextNetwork",
    "Conv3x3",
    "GatedAttention",
    "GatedBlock",
    "GatedConv",
    "GlowNet",
    "LipschitzConvNet",
    "LipschitzDenseNet",
    "LipschitzMLP",
    "LipschitzNet",
    "Pointwise",
    "Trunk",
    "ZeroConv",
    "ZeroConv3x3",
]
