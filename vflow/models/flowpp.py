"""Flow++ for images."""

from __future__ import annotations

from torch import Tensor

from vflow.models.config import FlowPlusPlusConfig
from vflow.models.image_flow import ImageFlow
from vflow.models.steps import image_flow, normal_log_prob


class FlowPlusPlus(ImageFlow):
    """Flow++ (Ho et al., 2019) with the squashed logit of VFlow (Chen et al., 2020, Table 4)."""

    config_class = FlowPlusPlusConfig
    weight_std = 0.001

    def __init__(self, config: FlowPlusPlusConfig) -> None:
        super().__init__(config)
        self.flow = image_flow(config, self.weight_std)

    def _encode(self, x: Tensor, eps_z: Tensor | None) -> tuple[Tensor, Tensor]:
        latent, logdet = self.flow(x)
        return latent, normal_log_prob(latent) + logdet

    def _decode(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        x, _ = self.flow.inverse(latent)
        return x, x[..., :0]
