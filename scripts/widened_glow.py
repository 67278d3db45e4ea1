"""Train a small Glow; then let it go on, and go on widened, for the same steps.

    python scripts/widened_glow.py --data cifar10

The widened one begins as a VFlow of the Glow's own likelihood (`widen`, Theorem 1 of the paper).
Writes a picture and the results as OUT.png and OUT.json, and prints their table. About two hours on
two cores. Interrupted, the same command goes on where it was.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import vflow
from scripts import comparison
from vflow.runtime.console import one_line_errors
from vflow.runtime.extras import tyro
from vflow.train import ModelOverrides, OptimConfig, TrainConfig, train

PRESET, SHAPE = "glow-cifar10", ("scales=[8,8,8]", "width=64")
TRAINED, GOING_ON, WIDENED = "Glow", "Glow, going on", "widened"


@dataclass(frozen=True, kw_only=True)
class WideningConfig(comparison.Comparison):
    """Train a small Glow; then let it go on, and go on widened, for the same steps."""

    steps: int = 1700
    """Training steps of the Glow, its learning rate held after the warmup."""
    further: int = 800
    """Further steps of both, the learning rate falling from the middle on."""
    extra_dims: int = 3
    """Channels of z."""
    sampled_images: int | None = 1000
    """Held-out images of the importance sampling, from the first; None for those of the bound."""
    runs: Path = Path("runs/widened-glow")
    """Folder of the runs."""
    out: Path = Path("docs/cifar10/glow-widened")
    """Picture and results, without the suffix."""


def training(
    config: WideningConfig,
    out: Path,
    steps: int,
    optim: OptimConfig,
    begin_with: Path | None = None,
    **overrides: Any,
) -> TrainConfig:
    """One of the three runs."""
    return TrainConfig(
        out=out,
        preset=PRESET,
        model=ModelOverrides(set=SHAPE, **overrides),
        data=config.data,
        init_from=None if begin_with is None else str(begin_with),
        batch_size=config.batch_size,
        steps=steps,
        seed=config.seed,
        log_every=25,
        checkpoint_every=250,
        eval_every=250 if begin_with is None else max(1, steps // 8),
        eval_images=500,
        sample_every=0,
        optim=optim,
    )


def train_all(config: WideningConfig) -> dict[str, Path]:
    """Train the Glow, and from it the two; the runs' folders by their labels."""
    rate: dict[str, Any] = {"lr": 0.001, "decay": 0.998, "ema": 0.998}
    trained = config.runs / "glow"
    held = OptimConfig(warmup=min(100, config.steps), hold=config.steps, **rate)
    train(training(config, trained, config.steps, held))

    wide = config.runs / "widened-before"
    glow = vflow.load_model(trained)
    glow.widen(config.extra_dims, posterior="gaussian").save_pretrained(wide)

    falling = OptimConfig(warmup=min(50, config.further // 2), hold=config.further // 2, **rate)
    going_on, widened = config.runs / "going-on", config.runs / "widened"
    train(training(config, going_on, config.further, falling, trained))
    overrides = {"extra_dims": config.extra_dims, "posterior": "gaussian"}
    train(training(config, widened, config.further, falling, wide, **overrides))
    return {TRAINED: trained, GOING_ON: going_on, WIDENED: widened}


def compare(config: WideningConfig) -> dict[str, Any]:
    """Train and evaluate all three; write the picture and the results."""
    runs = train_all(config)
    results: dict[str, Any] = {
        "steps": config.steps,
        "further": config.further,
        "extra_dims": config.extra_dims,
        "batch_size": config.batch_size,
        "seed": config.seed,
        "samples": config.samples,
        "models": {label: config.measure(run) for label, run in runs.items()},
    }
    before = results["models"][TRAINED][comparison.BOUND]["mean"]
    comparison.write(
        config.out,
        results,
        {label: runs[label] for label in (GOING_ON, WIDENED)},
        f"A Glow after {config.steps:,} steps, and what {config.further:,} more give",
        {f"before, {before:.3f} on all test images": before},
    )
    return results


@one_line_errors
def main() -> None:
    """The command."""
    print(comparison.table(compare(tyro.cli(WideningConfig, description=__doc__))))


if __name__ == "__main__":
    main()
