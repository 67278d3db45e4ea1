"""Flow++ and VFlow for downsampled ImageNet, as the authors' code has them.

Unlike those for CIFAR-10 they have concat_elu before the last convolution of every coupling's
network, a deeper network that reads the image, and, at 32x32, weight normalisation. There are no
1x1 convolutions in Flow++, nor in r(u|x) and q(z|x); VFlow's p has them.
"""

from __future__ import annotations

from typing import Any

from vflow.flows.couplings import MixLogisticSpec
from vflow.models.builders import FlowDequantizerSpec, FlowPosteriorSpec, FlowppSpec
from vflow.models.tree import AugmentConfig, ModelConfig

Options = dict[str, Any]


def imagenet32(extra_dims: int = 0) -> ModelConfig:
    """Of images 32x32; Flow++ for no extra channels, else VFlow."""
    scales = (
        (("checkerboard", 4), ("checkerboard", 3)),
        (("channel", 3), ("checkerboard", 3)),
    )
    common = {"filters": 128, "weight_norm": True, **_common(extra_dims, components=32)}
    conditional = {
        "blocks": 8,
        "steps": 8,
        "context_blocks": 8,
        "context_layers": "conv-norm-attention",
    }
    return _model(32, extra_dims, {"scales": scales, "blocks": 20}, conditional, common)


def imagenet64(extra_dims: int = 0) -> ModelConfig:
    """Of images 64x64; Flow++ for no extra channels, else VFlow."""
    both = (("channel", 2), ("checkerboard", 2))
    scales = ((), (("checkerboard", 4),), both, both)
    common = {"filters": 96, **_common(extra_dims, components=4)}
    conditional = {
        "blocks": 5,
        "attention": False,
        "context_blocks": 5,
        "context_layers": "conv-norm",
    }
    return _model(64, extra_dims, {"scales": scales, "blocks": 16}, conditional, common)


def _common(extra_dims: int, components: int) -> Options:
    coupling = MixLogisticSpec(components=components, squash=extra_dims > 0)
    return {"dropout": 0.0, "final_elu": True, "weight_std": 0.01, "coupling": coupling}


def _model(
    size: int, extra_dims: int, flow: Options, conditional: Options, common: Options
) -> ModelConfig:
    of_noise = {**common, **conditional, "conv1x1": False}
    augment = None
    if extra_dims:
        augment = AugmentConfig(channels=extra_dims, posterior=FlowPosteriorSpec(**of_noise))
    return ModelConfig(
        shape=(3, size, size),
        flow=FlowppSpec(**flow, **common, conv1x1=extra_dims > 0),
        augment=augment,
        dequantize=FlowDequantizerSpec(**of_noise),
    )
