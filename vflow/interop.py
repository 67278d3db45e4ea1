"""The authors' TensorFlow variables by their names, onto our parameters.

TensorFlow numbers the scopes of one name in the order of their making: r(u|x) first, then q(z|x),
then the flow. So `MixLogisticAttnCoupling_8/block0/conv/c1/W` is the first convolution of the first
block of the ninth coupling. Convolutions there are [kh, kw, in, out], dense matrices [in, out].

Those for ImageNet have other names in places: V and g where there is weight normalisation, c1 and
c2 for the first and the last convolution of a coupling, a deeper network that reads the image.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from vflow.flows import (
    ActNorm,
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

AVERAGED = "/ExponentialMovingAverage"
"""Ends every name in files that hold averaged variables alone."""


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
        variables: TensorFlow name -> array, in TensorFlow's layout. Names may all end in
            "/ExponentialMovingAverage"; position embeddings that nothing reads are passed over.

    Raises:
        ValueError: If a name is missing or not of this model, or a shape is wrong; lists them all,
            and the model is left as it was.
    """
    if all(name.endswith(AVERAGED) for name in variables):
        variables = {name.removesuffix(AVERAGED): array for name, array in variables.items()}
    unread = set(unread_variables(model))
    wanted = {name: array for name, array in variables.items() if name not in unread}
    load_variables(model_variables(model), wanted)
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
    mixing = 0
    for module, scope, is_posterior in _scopes(model):
        if isinstance(module, PerHalf):
            mixes = isinstance(module.first, ActNormConv1x1)
            yield from _norm_and_pointwise(module, scope, _numbered("Pointwise", mixing))
            mixing += mixes
        else:
            yield from layer_variables(module, scope, is_posterior)


def unread_variables(model: ImageFlow) -> Iterator[str]:
    """Names of variables that the authors' code makes and does not use."""
    for module, scope, _ in _scopes(model):
        if scope.partition("_")[0] == "MixLogisticCoupling":
            net = module.net
            if isinstance(net, Trunk) and net.final_elu:
                yield f"{scope}/pos_emb"


def _scopes(model: ImageFlow) -> Iterator[tuple[Any, str, bool]]:
    """Each layer with a scope of its own, the scope, and whether it is q(z|x)'s context network."""
    counts: Counter[str] = Counter()
    # Modules are registered in the order in which the authors' code makes its scopes.
    for module in model.modules():
        scope = _scope(module)
        if scope is None:
            continue
        is_posterior = isinstance(module, ContextNetwork) and counts[scope] > 0
        name = _numbered(scope, counts[scope])
        if is_posterior and _is_deep(module):
            name = f"q_{scope}"
        counts[scope] += 1
        yield module, name, is_posterior


def _numbered(scope: str, number: int) -> str:
    return f"{scope}_{number}" if number else scope


def _is_deep(net: Any) -> bool:
    """Whether a context network is one of those for ImageNet."""
    return isinstance(net.blocks[0], GatedBlock)


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
    if layer.gain is None:
        yield TFVariable(f"{prefix}/W", layer.weight, permutation)
    else:
        yield TFVariable(f"{prefix}/V", layer.weight, permutation)
        yield TFVariable(f"{prefix}/g", layer.gain)
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
    first, last = ("c1", "c2") if net.final_elu else ("proj_in", "proj_out")
    yield from _linear(net.conv_in, f"{prefix}/{first}")
    for index, block in enumerate(net.blocks):
        assert isinstance(block, GatedBlock)
        scope = f"{prefix}/block{index}"
        yield from _gated_conv(block.conv, f"{scope}/conv")
        yield from _layer_norm(block.norm1, f"{scope}/ln1")
        if block.attention is not None and block.norm2 is not None:
            yield from _gated_attention(block.attention, f"{scope}/attn")
            yield from _layer_norm(block.norm2, f"{scope}/ln2")
    yield from _linear(net.conv_out, f"{prefix}/{last}")


def _deep_context(net: ContextNetwork, prefix: str, is_posterior: bool) -> Iterator[TFVariable]:
    # Where it has no attention, q's names differ from r's within their scope too.
    start = f"{prefix}/q_" if is_posterior and net.position is None else f"{prefix}/"
    if net.position is not None:
        yield TFVariable(f"{start}pos_emb_dq", net.position)
    yield from _linear(net.conv_in, f"{start}proj")
    for index, block in enumerate(net.blocks):
        assert isinstance(block, GatedBlock)
        yield from _gated_conv(block.conv, f"{start}c{index}")
        yield from _layer_norm(block.norm1, f"{start}dqln{index}")
        if block.attention is not None and block.norm2 is not None:
            yield from _gated_attention(block.attention, f"{start}dqattn{index}")
            yield from _layer_norm(block.norm2, f"{start}ln{index}")


def _context(net: ContextNetwork, prefix: str, is_posterior: bool) -> Iterator[TFVariable]:
    if _is_deep(net):
        yield from _deep_context(net, prefix, is_posterior)
        return
    yield from _linear(net.conv_in, f"{prefix}/{'proj_q' if is_posterior else 'proj'}")
    for index, block in enumerate(net.blocks):
        assert isinstance(block, GatedConv)
        scope = f"q_c{index}" if is_posterior else f"c{index}"
        yield from _gated_conv(block, f"{prefix}/{scope}")


def _norm_and_pointwise(
    halves: PerHalf, prefix: str, pointwise: str = "Pointwise"
) -> Iterator[TFVariable]:
    # One layer of ours, two scopes of theirs.
    for index, half in enumerate((halves.first, halves.second)):
        if isinstance(half, ActNorm):
            yield TFVariable(f"{prefix}/norm{index}/g", half.weight)
            yield TFVariable(f"{prefix}/norm{index}/b", half.bias)
            continue
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
