"""The fused operations of the flows and their networks. Everything is NHWC.

`torch.func` (grad, vmap, jvp and their like), forward mode and gradients of gradients go through
PyTorch's own functions, on any device. Kernels have but one gradient: a backend of kernels that was
asked for by name refuses the rest.
"""

from vflow.ops.actnorm_conv1x1 import actnorm_conv1x1, actnorm_conv1x1_inverse
from vflow.ops.backend import use_backend
from vflow.ops.concat_elu import concat_elu
from vflow.ops.conv3x3 import conv3x3
from vflow.ops.dropout import dropout
from vflow.ops.gated_residual_norm import gated_residual_norm
from vflow.ops.mixlogistic import mixlogistic
from vflow.ops.mixlogistic_inverse import mixlogistic_inverse
from vflow.ops.self_attention import self_attention

__all__ = [
    "actnorm_conv1x1",
    "actnorm_conv1x1_inverse",
    "concat_elu",
    "conv3x3",
    "dropout",
    "gated_residual_norm",
    "mixlogistic",
    "mixlogistic_inverse",
    "self_attention",
    "use_backend",
]
