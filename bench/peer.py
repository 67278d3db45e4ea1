"""The public PyTorch Flow++ (github.com/chrischute/flowplusplus), for a comparison in one run.

It is read from a checkout of yours and not part of this project. One line of its attention
multiplies a view in place, which today's PyTorch refuses to differentiate; a copy of the files, in
a temporary folder, has it out of place.
"""

from __future__ import annotations

import importlib
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from bench.workloads import Workload
from vflow.models import ModelConfig

ATTENTION = Path("models", "flowplusplus", "nn.py")
IN_PLACE = "q *= key_depth_per_head ** -0.5"
OUT_OF_PLACE = "q = q * key_depth_per_head ** -0.5"


def load_peer(checkout: Path, config: ModelConfig) -> Any:
    """The peer's model at the widths of a config, in training mode.

    Raises:
        ValueError: If the folder is not such a checkout.
    """
    source = checkout / ATTENTION
    if not source.is_file() or IN_PLACE not in source.read_text(encoding="utf-8"):
        raise ValueError(
            f"peer must be a checkout of chrischute/flowplusplus, got {checkout}: "
            f"{ATTENTION} is not there, or does not hold {IN_PLACE!r}"
        )
    folder = Path(tempfile.mkdtemp(prefix="flowplusplus-"))
    try:
        for name in ("models", "util"):
            shutil.copytree(checkout / name, folder / name)
        text = (folder / ATTENTION).read_text(encoding="utf-8")
        (folder / ATTENTION).write_text(text.replace(IN_PLACE, OUT_OF_PLACE), encoding="utf-8")
        sys.path.insert(0, str(folder))
        try:
            peer = importlib.import_module("models")
        finally:
            sys.path.remove(str(folder))
    finally:
        shutil.rmtree(folder)
    return peer.FlowPlusPlus(
        scales=[(0, 4), (2, 3)],
        in_shape=(config.in_channels, *config.image_size),
        mid_channels=config.filters,
        num_blocks=config.blocks,
        num_dequant_blocks=config.dequantizer_blocks,
        num_components=config.components,
        use_attn=config.attention,
        drop_prob=config.dropout,
    ).train()


def peer_training(model: Any, batch_size: int, device: str) -> Workload:
    """Its training step: its loss, backward, Adam."""
    loss = importlib.import_module("util").NLLLoss().to(device)
    model = model.to(device)
    images = torch.rand(batch_size, 3, 32, 32, device=device)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-5)

    def step() -> None:
        optimizer.zero_grad()
        loss(*model(images)).backward()
        optimizer.step()

    return Workload(name="train", images=batch_size, call=step)
