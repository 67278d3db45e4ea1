"""Every layer against the authors' numbers: values, gradients, data-dependent initialisation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests import golden
from vflow.flows import (
    ActNormConv1x1,
    AffineCoupling,
    ChannelSplit,
    CheckerboardSplit,
    MixLogisticCoupling,
    PerHalf,
    Preprocess,
    Sigmoid,
    SpaceToDepth,
)
from vflow.interop import layer_variables, load_variables
from vflow.models.initialization import data_dependent_init
from vflow.nets import GatedAttention, GatedConv, Trunk
from vflow.ops import concat_elu

SIZE, FILTERS, CHANNELS, COMPONENTS = (8, 4), 8, 3, 4


def trunk(out_channels: int, heads: int | None) -> Trunk:
    return Trunk(CHANNELS, out_channels, filters=FILTERS, blocks=2, heads=heads, size=SIZE)


def mixlogistic(heads: int | None) -> MixLogisticCoupling:
    return MixLogisticCoupling(trunk(CHANNELS * (2 + 3 * COMPONENTS), heads), COMPONENTS)


def halves(channels: int = 3) -> PerHalf:
    return PerHalf(ActNormConv1x1((4, 4, channels)), ActNormConv1x1((4, 4, channels)))


class WithContext(nn.Module):
    """The authors' layer applies concat_elu to its context itself."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = GatedConv(FILTERS, context_channels=10)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        return self.conv(x, concat_elu(context))


# name: (our layer, scope of its variables, whether its inputs are a pair of halves)
LAYERS: dict[str, tuple[Callable[[], nn.Module], str, bool]] = {
    "actnorm": (halves, "Norm", True),
    "pointwise": (halves, "Norm", True),
    "space_to_depth": (SpaceToDepth, "", False),
    "imgproc": (Preprocess, "", False),
    "sigmoid": (Sigmoid, "", False),
    "gated_conv": (lambda: GatedConv(FILTERS), "g", False),
    "gated_conv_3x3": (lambda: GatedConv(FILTERS, second_kernel=3), "g", False),
    "gated_conv_context": (WithContext, "g", False),
    "gated_attn": (lambda: GatedAttention(FILTERS, heads=4), "g", False),
    "layernorm": (lambda: nn.LayerNorm(FILTERS), "g", False),
    "mixlogistic_attn_coupling_heads2": (lambda: mixlogistic(2), "MixLogisticAttnCoupling", True),
    "mixlogistic_attn_coupling_heads4": (lambda: mixlogistic(4), "MixLogisticAttnCoupling", True),
    "mixlogistic_coupling": (lambda: mixlogistic(None), "MixLogisticCoupling", True),
    "affine_coupling": (
        lambda: AffineCoupling(trunk(2 * CHANNELS, None)),
        "AffineCoupling",
        True,
    ),
}


def variables(module: nn.Module, scope: str, arrays: dict[str, Any]) -> list:
    """Our layer's variables; ActNorm and the 1x1 convolution are one layer here, two there."""
    if not scope:
        return []
    found = list(layer_variables(module.conv if isinstance(module, WithContext) else module, scope))
    if isinstance(module, PerHalf):
        found = [v for v in found if f"var/{v.name}" in arrays]
        for half in (module.first, module.second):
            if not any(v.parameter is half.weight for v in found):  # plain ActNorm: W = I
                with torch.no_grad():
                    half.weight.copy_(torch.eye(half.weight.shape[0]))
    return found


def run(module: nn.Module, inputs: list[Tensor], is_pair: bool) -> tuple[Tensor, Tensor | None]:
    output = module(tuple(inputs)) if is_pair else module(*inputs)
    y, logdet = output if isinstance(output, tuple) else (output, None)
    return (torch.cat(y, dim=-1) if isinstance(y, tuple) else y), logdet


@pytest.mark.parametrize("name", LAYERS)
def test_values_and_gradients(name: str) -> None:
    make, scope, is_pair = LAYERS[name]
    arrays = golden.layer(name)
    module = make().double()
    expected = variables(module, scope, arrays)
    given = {k.removeprefix("var/"): v for k, v in arrays.items() if k.startswith("var/")}
    load_variables(iter(expected), given)

    inputs = [golden.tensor(arrays[f"in{i}"]) for i in range(2) if f"in{i}" in arrays]
    inputs = [x.requires_grad_() for x in inputs]
    y, logdet = run(module, inputs, is_pair)
    golden.assert_close(y, arrays["out/y"], "y")
    objective = (golden.tensor(arrays["w"]) * y).sum()
    if "out/logd" in arrays:
        assert logdet is not None
        golden.assert_close(logdet, arrays["out/logd"], "logdet")
        objective = objective + (golden.tensor(arrays["v"]) * logdet).sum()
    objective.backward()

    checked = {f"grad/in{i}": x.grad for i, x in enumerate(inputs)}
    for variable in expected:
        assert variable.parameter.grad is not None
        checked[f"grad/var/{variable.name}"] = variable.to_tf(variable.parameter.grad)
    gradients = {k for k in arrays if k.startswith("grad/")}
    assert gradients == checked.keys()
    for key in gradients:
        golden.assert_close(checked[key].reshape(arrays[key].shape), arrays[key], key)


@pytest.mark.parametrize("name", [n for n, (_, scope, _) in LAYERS.items() if scope])
def test_data_dependent_initialisation(name: str) -> None:
    make, scope, is_pair = LAYERS[name]
    arrays = golden.layer(name)
    module = make().double()
    expected = variables(module, scope, arrays)
    before = {k.split("/", 1)[1]: v for k, v in arrays.items() if k.startswith("init_before/")}
    load_variables(iter(expected), before)
    inputs = [golden.tensor(arrays[f"in{i}"]) for i in range(2) if f"in{i}" in arrays]
    data_dependent_init(module, lambda: run(module, inputs, is_pair))
    for variable in expected:
        after = arrays[f"init_after/{variable.name}"]
        if not after.any():  # LayerNorm's bias: no scale to be relative to
            assert not variable.parameter.any()
            continue
        ours = variable.to_tf(variable.parameter.detach()).reshape(after.shape)
        golden.assert_close(ours, after, variable.name)


@pytest.mark.parametrize(
    ("name", "split"),
    [("checkerboard_split", CheckerboardSplit()), ("channel_split", ChannelSplit(2))],
    ids=["checkerboard", "channel"],
)
def test_splits(name: str, split: nn.Module) -> None:
    arrays = golden.layer(name)
    (first, second), logdet = split(golden.tensor(arrays["in0"]))
    golden.assert_close(first, arrays["out/first"], "first half")
    golden.assert_close(second, arrays["out/second"], "second half")
    assert logdet.shape == (2,)
    assert not logdet.any()
