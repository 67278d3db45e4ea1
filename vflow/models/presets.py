"""Models by name: functions that return a full config."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Callable
from typing import Any, TypeAlias

from vflow.models.builders import GlowSpec, ResidualSpec, UniformDequantizerSpec
from vflow.models.classes import make_model
from vflow.models.config import FlowPlusPlusConfig, VFlowConfig
from vflow.models.imagenet import imagenet32, imagenet64
from vflow.models.overrides import flat_names
from vflow.models.tree import ModelConfig, as_model_config

OVERRIDES = tuple(
    name for name in flat_names(as_model_config(VFlowConfig()).to_tree()) if name != "kind"
)
"""What `create_model` may change in a VFlow; other flows have other names beside these."""

Preset: TypeAlias = Callable[[], Any]
_PRESETS: dict[str, Preset] = {}


def _preset(name: str) -> Callable[[Preset], Preset]:
    def register(make: Preset) -> Preset:
        _PRESETS[name] = make
        return make

    return register


# The paper's CIFAR-10 models (Chen et al., 2020, Table 4)


@_preset("flowpp-cifar10")
def flowpp_cifar10() -> FlowPlusPlusConfig:
    """Flow++, 31.4 million parameters; published: 3.08 bits/dim on CIFAR-10."""
    return FlowPlusPlusConfig()


@_preset("vflow-cifar10")
def vflow_cifar10() -> VFlowConfig:
    """VFlow, 39.7 million parameters; published: 2.98 bits/dim on CIFAR-10."""
    return VFlowConfig()


@_preset("vflow-cifar10-64")
def vflow_cifar10_64() -> VFlowConfig:
    """VFlow of width 64, 17.1 million parameters; published: 3.03 bits/dim on CIFAR-10."""
    return VFlowConfig(filters=64, components=16)


@_preset("vflow-cifar10-56")
def vflow_cifar10_56() -> VFlowConfig:
    """VFlow of width 56, 12.5 million parameters; published: 3.08 bits/dim on CIFAR-10."""
    return VFlowConfig(filters=56, components=10)


# The ablation at 4 million parameters (Tables 5 and 6)


@_preset("flowpp-4m")
def flowpp_4m() -> FlowPlusPlusConfig:
    """Flow++, 4.2 million parameters; published: 3.21 bits/dim on CIFAR-10."""
    return FlowPlusPlusConfig(filters=32, blocks=13, components=4)


def _vflow_4m(extra_dims: int, blocks: int, posterior_blocks: int) -> VFlowConfig:
    return VFlowConfig(
        filters=32,
        blocks=blocks,
        components=4,
        extra_dims=extra_dims,
        posterior_blocks=posterior_blocks,
        posterior_attention=False,
        shared_context=True,
        affine_blocks=3,
    )


@_preset("vflow-4m-c4")
def vflow_4m_c4() -> VFlowConfig:
    """VFlow with 1 extra channel, 4.2 million parameters; published: 3.15 bits/dim on CIFAR-10."""
    return _vflow_4m(extra_dims=1, blocks=11, posterior_blocks=3)


@_preset("vflow-4m-c6")
def vflow_4m_c6() -> VFlowConfig:
    """VFlow with 3 extra channels, 4.2 million parameters; published: 3.12 bits/dim on CIFAR-10."""
    return _vflow_4m(extra_dims=3, blocks=10, posterior_blocks=3)


@_preset("vflow-4m-q6")
def vflow_4m_q6() -> VFlowConfig:
    """As vflow-4m-c6, with more parameters in q(z|x); published: 3.13 bits/dim on CIFAR-10."""
    return _vflow_4m(extra_dims=3, blocks=9, posterior_blocks=6)


@_preset("vflow-4m-q8")
def vflow_4m_q8() -> VFlowConfig:
    """As vflow-4m-c6, with most parameters in q(z|x); published: 3.14 bits/dim on CIFAR-10."""
    return _vflow_4m(extra_dims=3, blocks=8, posterior_blocks=8)


# The same ablation at a million parameters, for a CPU


@_preset("flowpp-1m")
def flowpp_1m() -> FlowPlusPlusConfig:
    """Flow++, 998 thousand parameters, to hold against vflow-1m-c4 and -c6."""
    return FlowPlusPlusConfig(filters=16, blocks=7, components=4)


def _vflow_1m(
    extra_dims: int, blocks: int, posterior_blocks: int, affine_blocks: int
) -> VFlowConfig:
    return VFlowConfig(
        filters=16,
        blocks=blocks,
        components=4,
        extra_dims=extra_dims,
        posterior_blocks=posterior_blocks,
        posterior_attention=False,
        shared_context=True,
        affine_blocks=affine_blocks,
    )


@_preset("vflow-1m-c4")
def vflow_1m_c4() -> VFlowConfig:
    """VFlow with 1 extra channel, 1.00 million parameters."""
    return _vflow_1m(extra_dims=1, blocks=5, posterior_blocks=2, affine_blocks=1)


@_preset("vflow-1m-c6")
def vflow_1m_c6() -> VFlowConfig:
    """VFlow with 3 extra channels, 1.00 million parameters."""
    return _vflow_1m(extra_dims=3, blocks=3, posterior_blocks=1, affine_blocks=2)


# And at 350 thousand, for an hour or two of a CPU: no attention, r and q without parameters


def _small(blocks: int) -> dict[str, Any]:
    return {
        "filters": 16,
        "blocks": blocks,
        "components": 4,
        "attention": False,
        "dropout": 0.0,
        "dequantizer": "uniform",
        "full_stages": (("checkerboard", 2),),
        "half_stages": (("checkerboard", 2), ("channel", 3)),
    }


@_preset("flowpp-350k")
def flowpp_350k() -> FlowPlusPlusConfig:
    """Flow++, 348 thousand parameters, to hold against vflow-350k-c4 and -c6."""
    return FlowPlusPlusConfig(**_small(blocks=5))


@_preset("vflow-350k-c4")
def vflow_350k_c4() -> VFlowConfig:
    """VFlow with 1 extra channel, 358 thousand parameters."""
    return VFlowConfig(**_small(blocks=4), extra_dims=1, posterior="normal")


@_preset("vflow-350k-c6")
def vflow_350k_c6() -> VFlowConfig:
    """VFlow with 3 extra channels, 338 thousand parameters."""
    return VFlowConfig(**_small(blocks=1), extra_dims=3, posterior="normal")


# Small models for photographs, made to learn within minutes on a CPU: no attention, few blocks


@_preset("vflow-demo")
def vflow_demo() -> VFlowConfig:
    """VFlow for `make demo`, 0.7 million parameters: q and r without parameters learn fastest."""
    return VFlowConfig(
        filters=32,
        blocks=1,
        components=4,
        attention=False,
        dropout=0.0,
        dequantizer="uniform",
        posterior="normal",
        half_stages=(("checkerboard", 2), ("channel", 2)),
    )


@_preset("vflow-photos")
def vflow_photos() -> VFlowConfig:
    """VFlow to hold against flowpp-photos, 1.28 million parameters."""
    return VFlowConfig(
        filters=32,
        blocks=1,
        components=4,
        attention=False,
        dropout=0.0,
        dequantizer_blocks=1,
        posterior_blocks=1,
        posterior_attention=False,
        shared_context=True,
    )


@_preset("flowpp-photos")
def flowpp_photos() -> FlowPlusPlusConfig:
    """Flow++ to hold against vflow-photos, 1.27 million parameters."""
    return FlowPlusPlusConfig(
        filters=32,
        blocks=3,
        components=4,
        attention=False,
        dropout=0.0,
        dequantizer_blocks=1,
    )


# Flow++ and VFlow for downsampled ImageNet, as the authors' code has them


@_preset("flowpp-imagenet32")
def flowpp_imagenet32() -> ModelConfig:
    """Flow++ with weight normalisation, 169 million parameters, for ImageNet at 32x32."""
    return imagenet32(0)


@_preset("flowpp-imagenet64")
def flowpp_imagenet64() -> ModelConfig:
    """Flow++, 73 million parameters, for ImageNet at 64x64."""
    return imagenet64(0)


@_preset("vflow-imagenet32")
def vflow_imagenet32() -> ModelConfig:
    """VFlow with 3 extra channels, 222 million parameters, for ImageNet at 32x32."""
    return imagenet32(3)


@_preset("vflow-imagenet64")
def vflow_imagenet64() -> ModelConfig:
    """VFlow with 3 extra channels, 98 million parameters, for ImageNet at 64x64."""
    return imagenet64(3)


# Other base flows


@_preset("glow-cifar10")
def glow_cifar10() -> ModelConfig:
    """Glow as openai/glow has it, 44.1 million parameters; published: 3.35 bits/dim on CIFAR-10."""
    return ModelConfig(
        shape=(3, 32, 32),
        flow=GlowSpec(),
        dequantize=UniformDequantizerSpec(preprocess="centre"),
    )


@_preset("residual-cifar10")
def residual_cifar10() -> ModelConfig:
    """Residual Flow (Chen et al., 2019), 25.2 million parameters; published: 3.28 on CIFAR-10."""
    return ModelConfig(
        shape=(3, 32, 32),
        flow=ResidualSpec(),
        dequantize=UniformDequantizerSpec(preprocess="logit"),
    )


# Small models for tests


@_preset("residual-tiny")
def residual_tiny() -> ModelConfig:
    """Residual Flow for tests: 16x16 images, milliseconds a step."""
    return ModelConfig(
        shape=(3, 16, 16),
        flow=ResidualSpec(scales=(1, 1), width=8, dense_blocks=1, dense_width=8),
        dequantize=UniformDequantizerSpec(preprocess="logit"),
    )


@_preset("glow-tiny")
def glow_tiny() -> ModelConfig:
    """Glow for tests: 16x16 images, milliseconds a step."""
    return ModelConfig(
        shape=(3, 16, 16),
        flow=GlowSpec(scales=(2, 2), width=8),
        dequantize=UniformDequantizerSpec(preprocess="centre"),
    )


@_preset("vflow-tiny")
def vflow_tiny() -> VFlowConfig:
    """VFlow for tests: 16x16 images, milliseconds a step."""
    return VFlowConfig(
        image_size=(16, 16),
        filters=8,
        blocks=1,
        components=4,
        heads=2,
        dropout=0.0,
        dequantizer_blocks=1,
        posterior_blocks=1,
        full_stages=(("checkerboard", 1), ("channel", 1)),
        half_stages=(("checkerboard", 1), ("channel", 1)),
    )


@_preset("flowpp-tiny")
def flowpp_tiny() -> FlowPlusPlusConfig:
    """Flow++ for tests: 16x16 images, milliseconds a step."""
    return FlowPlusPlusConfig(
        image_size=(16, 16),
        filters=8,
        blocks=1,
        components=4,
        heads=2,
        dropout=0.0,
        dequantizer_blocks=1,
        full_stages=(("checkerboard", 2),),
        half_stages=(("channel", 1), ("checkerboard", 1)),
    )


def list_models(pattern: str = "*") -> list[str]:
    """Names of the presets that match a shell pattern: `list_models("vflow-4m-*")`."""
    return fnmatch.filter(_PRESETS, pattern)


def describe_model(name: str) -> str:
    """One line on a preset.

    Raises:
        ValueError: If there is no such preset.
    """
    return (_factory(name).__doc__ or "").strip()


def model_config(name: str | ModelConfig, **overrides: Any) -> ModelConfig:
    """The config of a preset, with overrides.

    Args:
        name: One of `list_models()`, or a config, as a model has: `model.config`.
        overrides: As for `create_model`.

    Raises:
        ValueError: If there is no such preset or override, or a value is out of range.
    """
    if isinstance(name, ModelConfig) or hasattr(name, "to_model_config"):
        config, name = as_model_config(name), "the config"
    else:
        config = as_model_config(_factory(name)())
    return config.override(overrides, name) if overrides else config


def create_model(name: str | ModelConfig, **overrides: Any) -> Any:
    """Make a model, freshly initialised from PyTorch's global generator.

    Args:
        name: One of `list_models()`, or a config: `create_model(model.config, blocks=2)` is like
            `model`, but for its blocks and its parameters.
        overrides: Any field of the config by its flat name (`OVERRIDES` has those of Flow++ and
            VFlow): filters, heads, dropout, components, squash and coupling are those of r(u|x) and
            q(z|x) too, which otherwise have names of their own (`posterior_blocks`,
            `dequantizer_blocks`). `extra_dims` widens a flow that had none; `image_size` is a
            number or (height, width); a path, "flow.filters", is one place alone.

    Returns:
        A `VFlow` if it has extra dimensions, a `FlowPlusPlus` or another `ImageFlow` if not.

    Raises:
        ValueError: If there is no such preset or override, or a value is out of range.
    """
    return make_model(model_config(name, **overrides))


def _factory(name: str) -> Preset:
    if name not in _PRESETS:
        close = difflib.get_close_matches(str(name), _PRESETS, 1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        raise ValueError(f"preset must be one of {', '.join(_PRESETS)}, got {name!r}{hint}")
    return _PRESETS[name]
