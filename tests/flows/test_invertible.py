"""Every invertible layer: round trip, and log-determinant against the full Jacobian, in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from vflow.flows import (
    ActNormConv1x1,
    AffineCoupling,
    ChannelSplit,
    CheckerboardSplit,
    Compose,
    Flow,
    GaussianAffineCoupling,
    Inverse,
    MixLogisticCoupling,
    PerHalf,
    Preprocess,
    Sigmoid,
    SpaceToDepth,
    TupleFlip,
)
from vflow.nets import MLP, Trunk
from vflow.nets.context import CONTEXT_CHANNELS

CONTEXT = "context"


def trunk(first: tuple[int, ...], out: int, heads: int | None, context: bool = False) -> Trunk:
    height, width, channels = first
    net = Trunk(
        channels,
        out,
        filters=4,
        blocks=1,
        heads=heads,
        size=(height, width),
        context_channels=CONTEXT_CHANNELS if context else None,
    )
    net.conv_out.weight.data.mul_(4)  # parameters that matter, not ones near zero
    return net


def mixlogistic(
    shape: tuple[int, ...], heads: int | None, context: bool = False, squash: bool = True
) -> Flow:
    components, channels = 3, shape[-1]
    net = trunk(shape, channels * (2 + 3 * components), heads, context)
    return MixLogisticCoupling(net, components, squash)


def actnorm(shape: tuple[int, ...]) -> Flow:
    flow = ActNormConv1x1(shape, weight_std=0.3)
    flow.scale.data.normal_(1.0, 0.2).abs_().add_(0.1)
    flow.bias.data.normal_()
    return flow


def whole(split: Callable[[], Flow], *flows: Flow) -> Flow:
    """Tensors to tensors: split, map, merge."""
    return Compose([split(), *flows, Inverse(split())])


def checkered(make: Callable[[tuple[int, ...]], Flow]) -> Callable[[tuple[int, ...]], Flow]:
    def build(shape: tuple[int, ...]) -> Flow:
        height, width, channels = shape
        return whole(CheckerboardSplit, make((height, width // 2, channels)))

    return build


# Maps [B, H, W, C] to a tensor of as many elements; W and H are even.
LAYERS: dict[str, Callable[[tuple[int, ...]], Flow]] = {
    "actnorm_conv1x1": actnorm,
    "per_half": checkered(lambda half: PerHalf(actnorm(half), actnorm(half))),
    "mixlogistic_attention": checkered(lambda half: mixlogistic(half, heads=2)),
    "mixlogistic": checkered(lambda half: mixlogistic(half, heads=None)),
    "mixlogistic_no_squash": checkered(lambda half: mixlogistic(half, heads=None, squash=False)),
    "mixlogistic_context": checkered(lambda half: mixlogistic(half, heads=2, context=True)),
    "gaussian_affine": checkered(
        lambda half: GaussianAffineCoupling(trunk(half, 2 * half[-1], heads=None))
    ),
    "affine": checkered(lambda half: AffineCoupling(trunk(half, 2 * half[-1], heads=None))),
    "tuple_flip": lambda shape: whole(CheckerboardSplit, TupleFlip()),
    "channel_split": lambda shape: whole(lambda: ChannelSplit(shape[-1] // 2)),
    "space_to_depth": lambda shape: SpaceToDepth(),
    "sigmoid": lambda shape: Sigmoid(),
    "preprocess": lambda shape: Preprocess(),
}


def random_input(name: str, shape: tuple[int, ...]) -> Tensor:
    x = torch.randn(shape, dtype=torch.float64)
    return 256 * torch.sigmoid(x) if name == "preprocess" else x


def jacobian_logdet(flow: Flow, x: Tensor, context: Tensor | None) -> Tensor:
    """log|det| [B] of the full Jacobian, which must be block-diagonal over the batch."""
    jacobian = torch.autograd.functional.jacobian(lambda t: flow(t, context)[0], x)
    batch, size = x.shape[0], x[0].numel()
    jacobian = jacobian.reshape(batch, size, batch, size)
    across = jacobian.clone()
    across[range(batch), :, range(batch)] = 0
    assert not across.any(), "one example's output depends on another's input"
    return torch.stack([torch.linalg.slogdet(jacobian[i, :, i]).logabsdet for i in range(batch)])


@pytest.mark.parametrize("name", LAYERS)
@settings(max_examples=6, deadline=None, derandomize=True)
@given(
    batch=st.sampled_from([1, 3]),
    height=st.sampled_from([2, 4]),
    width=st.sampled_from([2, 4]),
    channels=st.integers(1, 3),
    seed=st.integers(0, 2**31),
)
def test_layer(name: str, batch: int, height: int, width: int, channels: int, seed: int) -> None:
    torch.manual_seed(seed)
    shape = (height, width, channels)
    flow = LAYERS[name](shape).double()
    x = random_input(name, (batch, *shape))
    context = None
    if CONTEXT in name:
        features = (batch, height, width // 2, CONTEXT_CHANNELS)
        context = torch.randn(features, dtype=torch.float64)
    with torch.no_grad():
        y, logdet = flow(x, context)
        back, inverse_logdet = flow.inverse(y, context)
    assert logdet.shape == (batch,)
    assert y.numel() == x.numel()
    torch.testing.assert_close(back, x, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(inverse_logdet, -logdet, rtol=1e-8, atol=1e-7)
    torch.testing.assert_close(logdet, jacobian_logdet(flow, x, context), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(("dims", "context_dims"), [(2, 0), (5, 0), (1, 3), (2, 3), (5, 3)])
def test_affine_coupling_of_vectors(dims: int, context_dims: int) -> None:
    torch.manual_seed(0)
    kept = dims // 2
    net = MLP(kept + context_dims, 2 * (dims - kept), hidden=7, layers=2)
    nn.init.normal_(net[-1].weight)
    flow = whole(lambda: ChannelSplit(kept), AffineCoupling(net)).double()
    x = torch.randn(3, dims, dtype=torch.float64)
    context = torch.randn(3, context_dims, dtype=torch.float64) if context_dims else None
    y, logdet = flow(x, context)
    back, _ = flow.inverse(y, context)
    torch.testing.assert_close(back, x)
    torch.testing.assert_close(logdet, jacobian_logdet(flow, x, context))
    assert not torch.allclose(y, x)


def test_compose_and_inverse_are_each_others_mirror() -> None:
    torch.manual_seed(0)
    flow = Compose([SpaceToDepth(), actnorm((2, 2, 8)), Sigmoid()]).double()
    x = torch.randn(3, 4, 4, 2, dtype=torch.float64)
    y, logdet = flow(x)
    mirrored: Any = Inverse(flow)
    back, inverse_logdet = mirrored(y)
    torch.testing.assert_close(back, x)
    torch.testing.assert_close(inverse_logdet, -logdet)
    again, logdet_again = mirrored.inverse(x)
    torch.testing.assert_close(again, y)
    torch.testing.assert_close(logdet_again, logdet)
