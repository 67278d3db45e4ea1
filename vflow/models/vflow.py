"""VFlow for images: a flow of the data and extra dimensions together."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vflow.flows import ChannelSplit, Flow, GaussianAffineCoupling, Inverse, TupleFlip
from vflow.models.config import VFlowConfig
from vflow.models.dequantize import VariationalDequantizer
from vflow.models.embedding import embed
from vflow.models.glow import Glow
from vflow.models.image_flow import ImageFlow
from vflow.models.posterior import FlowPosterior, NormalPosterior
from vflow.models.residual_flow import ResidualFlow
from vflow.models.steps import StepConfig, draw, image_flow, normal_log_prob
from vflow.models.vector_vflow import VectorVFlow
from vflow.nets import Trunk


class VFlow(ImageFlow):
    """VFlow (Chen et al., 2020): p(x, z) by one flow, q(z|x), an evidence lower bound."""

    config_class = VFlowConfig
    weight_std = 0.01
    config: VFlowConfig

    def __init__(self, config: VFlowConfig) -> None:
        super().__init__(config)
        height, width = config.image_size
        self.posterior: FlowPosterior | NormalPosterior
        if config.posterior == "flow":
            steps = StepConfig.of(
                config,
                config.posterior_blocks,
                config.posterior_attention,
                self.weight_std,
                has_context=True,
            )
            self.posterior = FlowPosterior(
                (height, width, config.extra_dims),
                config.in_channels,
                steps,
                own_context=not config.shared_context,
            )
        else:
            self.posterior = NormalPosterior()
        first = _gaussian_layer(config) if config.affine_blocks else []
        self.flow = image_flow(config, self.weight_std, first)

    @classmethod
    def from_flow(cls, flow: nn.Module, extra_dims: int, posterior_steps: int = 0) -> VectorVFlow:
        """Embed a trained flow in a VFlow that starts with its likelihood (Theorem 1, App. A).

        With q(z|x) = N(0, I) the evidence lower bound equals the flow's log-likelihood for every x
        and every noise, up to rounding; training goes on from there.

        Args:
            flow: A `Glow` or `ResidualFlow` of vectors, unconditional.
            extra_dims: Number Dz of extra dimensions.
            posterior_steps: Steps of a q(z|x) that starts as N(0, I) and can be trained; with 0 it
                stays N(0, I).

        Returns:
            A `VectorVFlow` of the flow's precision and device, which shares no memory with it.

        Raises:
            ValueError: If the flow is of another kind. Images' couplings squash the CDF to
                [0.05, 0.95] before the logit (App. B): such a coupling is the identity for no
                parameters, so that it cannot leave z alone.
        """
        if isinstance(flow, Glow | ResidualFlow):
            return embed(flow, extra_dims, posterior_steps)
        rule = "flow must be a Glow or ResidualFlow of vectors"
        if isinstance(flow, ImageFlow):
            why = (
                "whose couplings' squash to [0.05, 0.95] cannot be the identity on z"
                if flow.config.squash
                else "and the embedding of images' couplings is not written"
            )
            raise ValueError(f"{rule}, got a {type(flow).__name__} of images, {why}")
        raise ValueError(f"{rule}, got {type(flow).__name__}")

    def _noise_channels(self) -> dict[str, int]:
        return {**super()._noise_channels(), "eps_z": self.config.extra_dims}

    def _draw_noise_nhwc(self, batch: int, generator: torch.Generator | None) -> dict[str, Tensor]:
        noise = super()._draw_noise_nhwc(batch, generator)
        shape = (*noise["eps_u"].shape[:-1], self.config.extra_dims)
        return {**noise, "eps_z": draw(shape, self._parameter, generator)}

    def _sample_posterior(self, x: Tensor, eps_z: Tensor) -> tuple[Tensor, Tensor]:
        """Preprocessed x [B, H, W, C], eps_z [B, H, W, Dz] -> z alike, log q(z|x) [B]."""
        context = None
        if self.config.shared_context:
            assert isinstance(self.dequantizer, VariationalDequantizer)
            context = self.dequantizer.context
        return self.posterior(x, eps_z, context)

    def _encode(self, x: Tensor, eps_z: Tensor | None) -> tuple[Tensor, Tensor]:
        assert eps_z is not None
        z, log_q = self._sample_posterior(x, eps_z)
        latent, logdet = self.flow(torch.cat([x, z], dim=-1))
        return latent, normal_log_prob(latent) + logdet - log_q

    def _decode(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        xz, _ = self.flow.inverse(latent)
        channels = self.config.in_channels
        return xz[..., :channels], xz[..., channels:]


def _gaussian_layer(config: VFlowConfig) -> list[Flow]:
    """(x, z) -> ((x - mu(z)) / sigma(z), z), the special layer of Tables 5 and 6."""
    net = Trunk(
        config.extra_dims,
        2 * config.in_channels,
        filters=config.filters,
        blocks=config.affine_blocks,
        heads=None,
        size=config.image_size,
        dropout=config.dropout,
    )
    split = ChannelSplit(config.in_channels)
    return [
        split,
        TupleFlip(),  # a coupling changes the second half: x
        GaussianAffineCoupling(net),
        TupleFlip(),
        Inverse(split),
    ]
