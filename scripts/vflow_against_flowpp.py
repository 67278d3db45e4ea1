"""Train models of equal size on the same images, with the same steps, batches and seed.

    python scripts/vflow_against_flowpp.py
    python scripts/vflow_against_flowpp.py --data cifar10 --out docs/cifar10/ablation \
        --presets flowpp-1m vflow-1m-c4 vflow-1m-c6 --steps 6250 --batch-size 64

Writes a picture and the results as OUT.png and OUT.json, and prints their table. The first takes
about 100 minutes on two cores, a model of the second some seven hours. Interrupted, the same
command goes on where it was.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scripts import comparison
from vflow.runtime.console import one_line_errors
from vflow.runtime.extras import tyro
from vflow.train import OptimConfig, TrainConfig, train
from vflow.train.config import Optimizer, short_name

EMA = 0.99
FALL = 10  # times that the rate falls


@dataclass(frozen=True, kw_only=True)
class ComparisonConfig(comparison.Comparison):
    """Train models of equal size on the same images; compare them on held-out ones."""

    presets: tuple[str, ...] = ("vflow-photos", "flowpp-photos")
    """The models."""
    data: str = "photos"
    """Data set, as `vflow train` names it."""
    steps: int = 2400
    """Training steps of each."""
    batch_size: int = 16
    """Images a step."""
    optimizer: Optimizer = "adam"
    """Of all of them."""
    lr: float = 0.002
    """Its peak rate."""
    runs: Path = Path("runs/vflow-against-flowpp")
    """Folder of the runs."""
    out: Path = Path("docs/vflow-against-flowpp")
    """Picture and results, without the suffix."""


def training(config: ComparisonConfig, preset: str) -> TrainConfig:
    """The run of one of them: half the steps at the peak rate, half for its fall to a tenth."""
    half = config.steps // 2
    optim = OptimConfig(
        lr=config.lr,
        warmup=config.steps // 12,
        hold=half,
        fall=max(1, config.steps - half),
        min_lr=config.lr / FALL,
        ema=EMA,
    )
    return TrainConfig(
        out=config.runs / preset,
        preset=preset,
        data=config.data,
        batch_size=config.batch_size,
        steps=config.steps,
        optimizer=config.optimizer,
        seed=config.seed,
        log_every=10,
        checkpoint_every=100,
        eval_every=max(1, config.steps // 12),
        eval_images=256,
        sample_every=0,
        optim=optim,
    )


def compare(config: ComparisonConfig) -> dict[str, Any]:
    """Train and evaluate all; write the picture and the results."""
    models, curves = {}, {}
    for preset in config.presets:
        run = config.runs / preset
        train(training(config, preset))
        models[preset] = config.measure(run)
        if (first := config.presets[0]) != preset:
            models[preset][comparison.AHEAD] = config.ahead(run, config.runs / first)
        curves[f"{preset}, {models[preset]['parameters']:,} parameters"] = run
    results = {
        "data": short_name(config.data),
        "steps": config.steps,
        "batch_size": config.batch_size,
        "optimizer": config.optimizer,
        "lr": config.lr,
        "seed": config.seed,
        "samples": config.samples,
        "models": models,
    }
    images = f"{config.batch_size} images of {short_name(config.data)}"
    title = f"{config.steps:,} steps of {images}, the same seed"
    comparison.write(config.out, results, curves, title)
    return results


@one_line_errors
def main() -> None:
    """The command."""
    print(comparison.table(compare(tyro.cli(ComparisonConfig, description=__doc__))))


if __name__ == "__main__":
    main()
