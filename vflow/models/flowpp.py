"""Flow++ for images."""

from __future__ import annotations

from typing import Any

from vflow.models.image_flow import ImageFlow


class FlowPlusPlus(ImageFlow):
    """Flow++ (Ho et al., 2019), as in VFlow (Chen et al., 2020, Table 4).

    Args:
        config: A `ModelConfig` of that flow without extra dimensions, or a `FlowPlusPlusConfig`.
    """

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        if self.config.augment is not None or self.config.flow.kind != "flowpp":
            raise ValueError("config must be of a Flow++ without extra dimensions")
