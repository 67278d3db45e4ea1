"""VFlow for images: a flow of the data and extra dimensions together."""

from __future__ import annotations

from typing import Any

from torch import nn

from vflow.models.image_flow import ImageFlow
from vflow.models.widening import widen


class VFlow(ImageFlow):
    """VFlow (Chen et al., 2020): p(x, z) by one flow, q(z|x), an evidence lower bound.

    Args:
        config: A `ModelConfig` with extra dimensions, of any flow of images, or a `VFlowConfig`.
    """

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        if self.config.augment is None:
            raise ValueError("config must have extra dimensions, got augment None")

    @classmethod
    def from_flow(
        cls,
        flow: nn.Module,
        extra_dims: int,
        posterior_steps: int = 0,
        posterior: Any = "normal",
    ) -> Any:
        """Embed a trained flow in a VFlow that starts with its likelihood (Theorem 1, App. A).

        With q(z|x) = N(0, I) the evidence lower bound equals the flow's log-likelihood for every x
        and every noise, up to rounding; training goes on from there.

        Args:
            flow: An unconditional model without extra dimensions: of vectors, or of images.
            extra_dims: Number Dz of extra dimensions, or of extra channels of images.
            posterior_steps: For vectors, steps of a q(z|x) that starts as N(0, I) and can be
                trained; with 0 it is as `posterior` says.
            posterior: "normal", where q(z|x) stays N(0, I); or one that starts so and can be
                trained, "gaussian" for images, "vector-glow" for vectors, or the options of one.

        Returns:
            A `VectorVFlow` for vectors, a `VFlow` for images, of the flow's precision and device,
            which shares no memory with it.

        Raises:
            ValueError: If the flow is of another kind, or one of its layers cannot leave z alone;
                says which and why. A coupling with the squash of the CDF to [0.05, 0.95] (App. B)
                is the identity for no parameters.
        """
        return widen(flow, extra_dims, posterior_steps, posterior)
