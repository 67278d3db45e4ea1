"""The authors' TensorFlow variables by their names, onto our parameters.

TensorFlow numbers the scopes of one name in the order of their making: r(u|x) first, then q(z|x),
then the flow. So `MixLogisticAttnCoupling_8/block0/conv/c1/W` is the first convolution of the first
block of the ninth coupling. Convolutions there are [kh, kw, in, out], dense matrices [in, out].
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from vflow.flows import (
    ActNormConv1x1,
    AffineCoupling,
    GaussianAffineCoupling,
    MixLogisticCoupling,
    PerHalf,
)
from vflow.models import ImageFlow
from vflow.nets import (
    ContextNetwork,
    Conv3x3,
    GatedAttention,
    GatedBlock,
    GatedConv,
    Pointwise,
    Trunk,
)
from vflow.nets.layers import DataInitialized


class TFVariable(NamedTuple):
    """One of the authors' variables: its name, our parameter, and the way from layout to layout.

    `permutation` gives, for each of our axes, TensorFlow's; None where only the shape differs.
    """

    name: str
    parameter: nn.Parameter
    permutation: tuple[int, ...] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape in TensorFlow; LayerNorm's carries three leading ones."""
        shape = tuple(self.parameter.shape)
        if self.permutation is None:
            return shape
        inverse = np.argsort(self.permutation)
        return tuple(shape[axis] for axis in inverse)

    def to_ours(self, array: Tensor) -> Tensor:
        """A value in TensorFlow's layout -> ours."""
        if self.permutation is None:
            return array.reshape(self.parameter.shape)
        return array.permute(self.permutation)

    def to_tf(self, value: Tensor) -> Tensor:
        """A value in our layout (the parameter's, or its gradient's) -> TensorFlow's."""
        if self.permutation is None:
            return value
        return value.permute(tuple(np.argsort(self.permutation).tolist()))


def load_tf_variables(model: ImageFlow, variables: Mapping[str, Any]) -> None:
    """Set a model's parameters from the authors' variables; it counts as initialised afterwards.

    Args:
        model: A FlowPlusPlus or VFlow.
        variables: TensorFlow name -> array, in TensorFlow's layout.

    Raises:
        ValueError: If a name is missing or not of this model, or a shape is wrong; lists them all,
            and the model is left as it was.
    """
    load_variables(model_variables(model), variables)
    model.mark_initialized()


def load_variables(expected: Iterator[TFVariable], variables: Mapping[str, Any]) -> None:
    """Copy arrays into parameters; errors as for `load_tf_variables`."""
    wanted = {variable.name: variable for variable in expected}
    problems = [f"missing {name}" for name in wanted if name not in variables]
    problems += [f"not of this model {name}" for name in variables if name not in wanted]
    arrays: dict[str, Tensor] = {}
    for name in wanted.keys() & variables.keys():
        arrays[name] = torch.as_tensor(np.asarray(variables[name]))
        shape, expected_shape = tuple(arrays[name].shape), wanted[name].shape
        # LayerNorm's [1, 1, 1, F] counts as [F].
        if shape != expected_shape and shape != (1, 1, 1, *expected_shape):
            problems.append(f"{name} must have shape {expected_shape}, got {shape}")
        elif not arrays[name].isfinite().all():
            problems.append(f"{name} must be finite, got NaN or infinity")
    if problems:
        raise ValueError(f"{len(problems)} variables do not fit: {'; '.join(sorted(problems))}")
    with torch.no_grad():
        for name, variable in wanted.items():
            variable.parameter.copy_(variable.to_ours(arrays[name]))


def model_variables(model: ImageFlow) -> Iterator[TFVariable]:
    """Every variable of a model under the authors' name, each parameter once."""
    counts: Counter[str] = Counter()
    # Modules are registered in the order in which the authors' code makes its scopes.
    for module in model.modules():
        scope = _scope(module)
        if scope is None:
            continue
        suffix = f"_{counts[scope]}" if counts[scope] else ""
        is_posterior = isinstance(module, ContextNetwork) and counts[scope] > 0
        counts[scope] += 1
        yield from layer_variables(module, scope + suffix, is_posterior)


def layer_variables(
    module: nn.Module, prefix: str, is_posterior: bool = False
) -> Iterator[TFVariable]:
    """The variables of one layer, named below `prefix`.

    Args:
        module: A layer that the authors' code has too.
        prefix: Name of its scope.
        is_posterior: For a context network, whether it is q(z|x)'s, whose scopes differ.

    Raises:
        TypeError: If the authors' code has no such layer.
    """
    for kind, variables in _LAYERS.items():
        if isinstance(module, kind):
            if isinstance(module, ContextNetwork):
                yield from _context(module, prefix, is_posterior)
            else:
                yield from variables(module, prefix)
            return
    raise TypeError(f"no TensorFlow counterpart of {type(module).__name__}")


def _scope(module: nn.Module) -> str | None:
    """The authors' name for the scope of a layer that has one of its own."""
    if isinstance(module, ContextNetwork):
        return "context_proc"
    if isinstance(module, PerHalf):
        return "Norm"
    if isinstance(module, GaussianAffineCoupling):
        return "AffineLayer"  # not in the authors' public code: the name is ours
    if isinstance(module, MixLogisticCoupling):
        attention = isinstance(module.net, Trunk) and module.net.position is not None
        return "MixLogisticAttnCoupling" if attention else "MixLogisticCoupling"
    return None


def _linear(layer: DataInitialized, prefix: str) -> Iterator[TFVariable]:
    permutation = (3, 2, 0, 1) if isinstance(layer, Conv3x3) else (1, 0)
    yield TFVariable(f"{prefix}/W", layer.weight, permutation)
    yield TFVariable(f"{prefix}/b", layer.bias)


def _layer_norm(layer: nn.LayerNorm, prefix: str) -> Iterator[TFVariable]:
    yield TFVariable(f"{prefix}/g", layer.weight)
    yield TFVariable(f"{prefix}/b", layer.bias)


def _gated_conv(layer: GatedConv, prefix: str) -> Iterator[TFVariable]:
    yield from _linear(layer.conv1, f"{prefix}/c1")
    if layer.project is not None:
        yield from _linear(layer.project, f"{prefix}/a_proj")
    yield from _linear(layer.conv2, f"{prefix}/c2")


def _gated_attention(layer: GatedAttention, prefix: str) -> Iterator[TFVariable]:
    yield from _linear(layer.qkv, f"{prefix}/proj1")
    yield from _linear(layer.out, f"{prefix}/proj2")


def _trunk(net: Trunk, prefix: str) -> Iterator[TFVariable]:
    if net.position is not None:
        yield TFVariable(f"{prefix}/pos_emb", net.position)
    yield from _linear(net.conv_in, f"{prefix}/proj_in")
    for index, block in enumerate(net.blocks):
        assert isinstance(block, GatedBlock)
        scope = f"{prefix}/block{index}"
        yield from _gated_conv(block.conv, f"{scope}/conv")
        yield from _layer_norm(block.norm1, f"{scope}/ln1")
        if block.attention is not None and block.norm2 is not None:
            yield from _gated_attention(block.attention, f"{scope}/attn")
            yield from _layer_norm(block.norm2, f"{scope}/ln2")
    yield from _linear(net.conv_out, f"{prefix}/proj_out")


def _context(net: ContextNetwork, prefix: str, is_posterior: bool) -> Iterator[TFVariable]:
    yield from _linear(net.conv_in, f"{prefix}/{'proj_q' if is_posterior else 'proj'}")
    for index, block in enumerate(net.blocks):
        assert isinstance(block, GatedConv)
        scope = f"q_c{index}" if is_posterior else f"c{index}"
        yield from _gated_conv(block, f"{prefix}/{scope}")


def _norm_and_pointwise(halves: PerHalf, prefix: str) -> Iterator[TFVariable]:
    # One layer of ours, two scopes of theirs with the same number.
    pointwise = prefix.replace("Norm", "Pointwise")
    for index, half in enumerate((halves.first, halves.second)):
        assert isinstance(half, ActNormConv1x1)
        yield TFVariable(f"{prefix}/norm{index}/g", half.scale)
        yield TFVariable(f"{prefix}/norm{index}/b", half.bias)
        # The authors' 1x1 convolution multiplies row vectors from the right, as ours does.
        yield TFVariable(f"{pointwise}/W{index}", half.weight)


_LAYERS: dict[type[nn.Module], Callable[..., Iterator[TFVariable]]] = {
    Conv3x3: _linear,
    Pointwise: _linear,
    nn.LayerNorm: _layer_norm,
    GatedConv: _gated_conv,
    GatedAttention: _gated_attention,
    ContextNetwork: _context,
    PerHalf: _norm_and_pointwise,
    MixLogisticCoupling: lambda layer, prefix: _trunk(layer.net, prefix),
    AffineCoupling: lambda layer, prefix: _trunk(layer.net, prefix),
    GaussianAffineCoupling: lambda layer, prefix: _trunk(layer.net, prefix),
}
