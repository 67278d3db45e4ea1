"""The ways a model can be run, from plain PyTorch up: what bench/throughput.py compares."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from vflow.nets import gated
from vflow.nets.recompute import Recompute
from vflow.ops import concat_elu, use_backend
from vflow.runtime.distributed import Ranks
from vflow.train import OptimConfig, TrainConfig
from vflow.train.inputs import Inputs
from vflow.train.trainer import Trainer

LEARNING_RATE = 1e-5
"""So small that a model that sees noise only stays near its initialisation."""


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """Operations, precision, and how a training step is launched."""

    name: str
    backend: str | None
    """The operations' backend; None for what the machine chooses by itself."""
    precision: Literal["fp32", "bf16"] = "fp32"
    compile: bool = False
    cuda_graph: bool = False

    @property
    def trains_only(self) -> bool:
        """Whether it differs from another configuration in the training step alone."""
        return self.compile or self.cuda_graph

    def missing(self, device: str) -> str | None:
        """Why it cannot be had on a device; None if it can."""
        if self.cuda_graph and device != "cuda":
            return f"there are no CUDA graphs on {device}"
        return None

    @contextmanager
    def operations(self) -> Iterator[None]:
        """Run the operations on its backend within; the reference with PyTorch's own dropout.

        The reference's own draws the very bits that the kernels do, in integers of 64 bits, which
        takes four times as long as what anybody would write.
        """
        if self.backend is None:
            yield
            return
        ours = gated.concat_elu, gated.dropout
        gated.concat_elu, gated.dropout = _concat_elu, _dropout
        try:
            with use_backend(self.backend):
                yield
        finally:
            gated.concat_elu, gated.dropout = ours

    def trainer(
        self,
        preset: str,
        batch_size: int,
        device: torch.device,
        *,
        recompute: Recompute = "none",
        ranks: Ranks | None = None,
        initialize: bool = True,
    ) -> Trainer:
        """A trainer of the preset on random images, begun.

        Args:
            preset: The model.
            batch_size: Images a step, over all processes.
            device: Where it trains.
            recompute: What the backward pass computes again: none, block or coupling.
            ranks: This process, among how many; by default the only one.
            initialize: Whether the parameters depend on the images.
        """
        config = TrainConfig(
            out=Path("nothing-is-written"),
            preset=preset,
            batch_size=batch_size,
            steps=1,
            precision=self.precision,
            compile=self.compile,
            cuda_graph=self.cuda_graph,
            recompute=recompute,
            optim=OptimConfig(lr=LEARNING_RATE, min_lr=LEARNING_RATE, warmup=0),
        )
        model = config.model_config()
        shape = (max(32, 2 * batch_size), model.in_channels, *model.image_size)
        source = torch.Generator().manual_seed(0)
        images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=source).to(device)
        trainer = Trainer(config, Inputs(train=images, test=images), ranks or Ranks(), device)
        if not initialize:
            trainer.model.mark_initialized()
        with self.operations():
            trainer.begin(None)
        return trainer


# PyTorch's dropout has no seed of its own: a pass computed again drops other elements than before.
def _dropout(x: Tensor, dropout: float, seed: Tensor | None = None) -> Tensor:
    return functional.dropout(x, dropout)


def _concat_elu(x: Tensor, dropout: float = 0.0, seed: Tensor | None = None) -> Tensor:
    return _dropout(concat_elu(x), dropout)


CONFIGURATIONS = {
    configuration.name: configuration
    for configuration in (
        Configuration(name="reference", backend="reference"),
        Configuration(name="kernels", backend=None),
        Configuration(name="bf16", backend=None, precision="bf16"),
        Configuration(name="compile", backend=None, compile=True),
        Configuration(name="bf16+compile", backend=None, precision="bf16", compile=True),
        Configuration(name="graph", backend=None, cuda_graph=True),
        Configuration(name="bf16+graph", backend=None, precision="bf16", cuda_graph=True),
    )
}
# torch.compile of a whole model takes minutes on a CPU: only where it is asked for.
BY_DEVICE = {
    "cpu": ("reference", "kernels", "bf16"),
    "cuda": ("reference", "kernels", "bf16", "bf16+compile", "bf16+graph"),
}
