"""How an image model computes: autocast, and what the backward pass computes again."""

from __future__ import annotations

import torch

from vflow.flows.couplings import Coupling
from vflow.models.image_flow.parts import ImageParts
from vflow.nets import ContextNetwork, GlowNet, Trunk
from vflow.nets.recompute import take_recompute

PRECISIONS = {"fp32": None, "bf16": torch.bfloat16}
WHOLE_BLOCKS = 5
"""Room for the coupling whose gradient is computed, in gated blocks of the largest coupling."""


class Settings(ImageParts):
    """Settings of the networks, which are no part of the model's config."""

    def set_precision(self, precision: str) -> None:
        """Run the couplings' networks under autocast; all else stays as the parameters are.

        Args:
            precision: "fp32" (no autocast) or "bf16".

        Raises:
            ValueError: If it is neither.
        """
        if precision not in PRECISIONS:
            raise ValueError(f"precision must be fp32 or bf16, got {precision!r}")
        for module in self.modules():
            if isinstance(module, Trunk | ContextNetwork | GlowNet):
                module.compute_dtype = PRECISIONS[precision]

    def set_recompute(self, recompute: str | bool) -> None:
        """Say what the backward pass computes again instead of keeping it, to spare memory.

        Args:
            recompute: "none"; "block", the gated blocks, of which only the inputs are kept; or
                "coupling", whole couplings, of which only the inputs are kept. Then, while a
                coupling's own gradient is computed, its last blocks are kept, as many as take the
                room of `WHOLE_BLOCKS` of the largest, and of the others the inputs.
                False and True are "none" and "block".

        Raises:
            ValueError: If it is none of these, or the model has nothing of the kind.
        """
        recompute = take_recompute(recompute)
        modules = list(self.modules())
        whole = [m for m in modules if isinstance(m, Coupling)]
        trunks = [m for m in modules if isinstance(m, Trunk)]
        if recompute != "none" and not {"block": trunks, "coupling": whole}[recompute]:
            what = {"block": "gated blocks", "coupling": "couplings"}[recompute]
            raise ValueError(
                f"recompute must be none for a model without {what}, got {recompute!r}"
            )
        for part in whole:
            part.recompute = recompute == "coupling"
        room = WHOLE_BLOCKS * max((trunk.block_size for trunk in trunks), default=0)
        for trunk in trunks:
            kept = {"none": len(trunk.blocks), "block": 0, "coupling": room // trunk.block_size}
            trunk.recomputed_blocks = max(0, len(trunk.blocks) - kept[recompute])
