"""q(z|x) and r(u|x) for images: a conditional flow, or noise as it comes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from vflow.densities import ConditionalDensity, Uniform
from vflow.flows import (
    COUPLINGS,
    Centre,
    Compose,
    Conditioned,
    Flow,
    Preprocess,
    Shape,
    Sigmoid,
)
from vflow.flows.couplings import AffineSpec, MixLogisticSpec
from vflow.flows.elementwise import PIXEL_VALUES
from vflow.io.fields import require_choice, require_int, take_plain_numbers
from vflow.models.builders.base import DEQUANTIZERS, POSTERIORS
from vflow.models.builders.flowpp import check_trunk_fields, require_dropout, steps_of
from vflow.models.builders.steps import split_steps
from vflow.nets import ContextNetwork, Trunk, ZeroConv3x3
from vflow.nets.context import CONTEXT_BLOCKS, CONTEXT_CHANNELS, CONTEXT_LAYERS


def centred(pixels: Tensor) -> Tensor:
    """0..255 -> -0.5..0.5, what r(u|x) reads."""
    return pixels / PIXEL_VALUES - 0.5


@dataclass(frozen=True, kw_only=True)
class _ConditionalFlowSpec:
    """Checkerboard steps and a sigmoid, from noise to (0, 1) (Ho et al., 2019)."""

    filters: int = 96
    """Width F of the couplings' networks, a multiple of `heads`."""
    blocks: int = 2
    """Gated blocks B in each coupling."""
    heads: int = 4
    """Attention heads."""
    attention: bool = True
    """Whether the couplings have attention."""
    dropout: float = 0.2
    """Dropout probability in the couplings' networks."""
    coupling: Any = field(default=MixLogisticSpec(), metadata={"kinds": COUPLINGS})
    """The coupling."""
    weight_std: float = 0.001
    """The 1x1 convolutions start at I + weight_std * N(0, 1)."""
    conv1x1: bool = field(default=True, metadata={"before": True})
    """Whether each step has a 1x1 convolution of each half."""
    weight_norm: bool = field(default=False, metadata={"before": False})
    """Whether the networks have weight normalisation (Salimans & Kingma, 2016)."""
    final_elu: bool = field(default=False, metadata={"before": False})
    """Whether concat_elu comes before the last convolution of a coupling's network."""
    steps: int = field(default=4, metadata={"before": 4})
    """Couplings in all."""
    context_blocks: int = field(default=CONTEXT_BLOCKS, metadata={"before": CONTEXT_BLOCKS})
    """Blocks of the network that reads x."""
    context_layers: str = field(default="conv", metadata={"before": "conv"})
    """What a block of it is: "conv", "conv-norm" or "conv-norm-attention"."""

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ValueError: Naming the field, what it must be and what it is.
        """
        take_plain_numbers(self)
        check_trunk_fields(self)
        require_int("steps", self.steps, 1)
        require_int("context_blocks", self.context_blocks, 1)
        require_choice("context_layers", self.context_layers, CONTEXT_LAYERS)

    @classmethod
    def tiny(cls) -> Any:
        """At its smallest, for tests."""
        return cls(filters=4, blocks=1, heads=2, dropout=0.0, coupling=MixLogisticSpec.tiny())

    def flow(self, shape: Shape) -> Flow:
        """From noise to a value of shape [H, W, C] in (0, 1)."""
        steps = steps_of(self, CONTEXT_CHANNELS)
        return Compose([*split_steps("checkerboard", self.steps, shape, steps), Sigmoid()])

    def context_network(self, shape: Shape) -> ContextNetwork:
        """What reads images of shape [H, W, C]."""
        height, width, channels = shape
        return ContextNetwork(
            channels,
            (height, width),
            blocks=self.context_blocks,
            layers=self.context_layers,
            weight_norm=self.weight_norm,
        )


PREPROCESSES: dict[str, type[Flow]] = {"logit": Preprocess, "centre": Centre}
"""From pixels in [0, 256) to what p models."""


@DEQUANTIZERS.register("flow")
@dataclass(frozen=True, kw_only=True)
class FlowDequantizerSpec(_ConditionalFlowSpec):
    """Variational dequantization: u from a conditional flow."""

    preprocess: str = field(default="logit", metadata={"before": "logit"})
    """From pixels to p's values: "logit" of 0.05 + 0.9 x / 256, or "centre", x / 256 - 0.5."""

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ValueError: Naming the field, what it must be and what it is.
        """
        super().__post_init__()
        require_choice("preprocess", self.preprocess, tuple(PREPROCESSES))

    def build(self, shape: Shape) -> ConditionalDensity:
        """r(u|x) for images of shape [H, W, C]."""
        features = self.context_network(shape)
        return ConditionalDensity(self.flow(shape), features, prepare=centred)


@DEQUANTIZERS.register("uniform")
@dataclass(frozen=True, kw_only=True)
class UniformDequantizerSpec:
    """u uniform in [0, 1), so that log r(u|x) = 0."""

    preprocess: str = field(default="logit", metadata={"before": "logit"})
    """From pixels to p's values: "logit" of 0.05 + 0.9 x / 256, or "centre", x / 256 - 0.5."""

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ValueError: Naming the field, what it must be and what it is.
        """
        require_choice("preprocess", self.preprocess, tuple(PREPROCESSES))

    @classmethod
    def tiny(cls) -> UniformDequantizerSpec:
        """At its smallest, for tests."""
        return cls()

    def build(self, shape: Shape) -> ConditionalDensity:
        """r(u|x)."""
        return ConditionalDensity(base=Uniform())


@POSTERIORS.register("flow")
@dataclass(frozen=True, kw_only=True)
class FlowPosteriorSpec(_ConditionalFlowSpec):
    """z from a conditional flow of the dequantized, preprocessed image."""

    blocks: int = 3
    """Gated blocks B in each coupling."""
    context: str = "own"
    """The network that reads x: "own", or "shared" for that of r(u|x)."""

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ValueError: Naming the field, what it must be and what it is.
        """
        take_plain_numbers(self)
        super().__post_init__()
        require_choice("context", self.context, ("own", "shared"))
        if self.context == "shared":
            for name, usual in (("context_blocks", CONTEXT_BLOCKS), ("context_layers", "conv")):
                if getattr(self, name) != usual:
                    raise ValueError(
                        f"{name} must be left at {usual!r} where context is 'shared', got "
                        f"{getattr(self, name)!r}"
                    )

    def build(
        self, shape: Shape, data_channels: int, shared: nn.Module | None
    ) -> ConditionalDensity:
        """q(z|x) for z of shape [H, W, Dz]."""
        if self.context == "own":
            features = self.context_network((*shape[:-1], data_channels))
            return ConditionalDensity(self.flow(shape), features)
        if shared is None:
            raise ValueError("context must be 'own' where r(u|x) has no network, got 'shared'")
        posterior = ConditionalDensity(self.flow(shape))
        posterior.borrow_features(shared)
        return posterior


@POSTERIORS.register("gaussian")
@dataclass(frozen=True, kw_only=True)
class GaussianPosteriorSpec:
    """z Gaussian given the image, its mean and scale by a network; it starts as N(0, I).

    With another coupling than the affine one, z is what that makes of Gaussian noise.
    """

    filters: int = 32
    """Width F of the network."""
    blocks: int = 2
    """Gated blocks B of the network."""
    dropout: float = 0.0
    """Dropout probability in the network."""
    coupling: Any = field(default=AffineSpec(), metadata={"kinds": COUPLINGS})
    """The map of each element of the noise."""

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ValueError: Naming the field, what it must be and what it is.
        """
        for name in ("filters", "blocks"):
            require_int(name, getattr(self, name), 1)
        require_dropout(self.dropout)
        COUPLINGS.require("coupling", self.coupling)

    @classmethod
    def tiny(cls) -> GaussianPosteriorSpec:
        """At its smallest, for tests."""
        return cls(filters=4, blocks=1)

    def build(
        self, shape: Shape, data_channels: int, shared: nn.Module | None
    ) -> ConditionalDensity:
        """q(z|x) for z of shape [H, W, Dz]."""
        height, width, channels = shape
        out = channels * self.coupling.parameters
        net = Trunk(
            data_channels,
            out,
            filters=self.filters,
            blocks=self.blocks,
            heads=None,
            size=(height, width),
            dropout=self.dropout,
        )
        net.conv_out = ZeroConv3x3(self.filters, out)  # type: ignore[assignment]
        return ConditionalDensity(Conditioned(self.coupling.build(nn.Identity())), net)


@POSTERIORS.register("normal")
@dataclass(frozen=True, kw_only=True)
class NormalPosteriorSpec:
    """z ~ N(0, I), whatever x is (VFlow, Theorem 1); no options."""

    @classmethod
    def tiny(cls) -> NormalPosteriorSpec:
        """At its smallest, for tests."""
        return cls()

    def build(
        self, shape: Shape, data_channels: int, shared: nn.Module | None
    ) -> ConditionalDensity:
        """q(z|x)."""
        return ConditionalDensity()
