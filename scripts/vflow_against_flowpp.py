"""Train a VFlow and a Flow++ of equal size on photographs, with the same steps and seed.

    python scripts/vflow_against_flowpp.py

Writes docs/vflow-against-flowpp.png and .json, and prints their table. About 100 minutes on two
cores. Interrupted, the same command goes on where it was.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from vflow.evaluate import EvaluateConfig, evaluate
from vflow.plots import save_curves
from vflow.runtime.console import one_line_errors
from vflow.runtime.files import write_json
from vflow.train import OptimConfig, TrainConfig, train

PRESETS = {"VFlow": "vflow-photos", "Flow++": "flowpp-photos"}
OPTIM = {"lr": 0.002, "min_lr": 0.0002, "ema": 0.99}


@dataclass(frozen=True, kw_only=True)
class ComparisonConfig:
    """Train a VFlow and a Flow++ of equal size on photographs; compare them on others."""

    steps: int = 2400
    """Training steps of each."""
    batch_size: int = 16
    """Images a step."""
    seed: int = 0
    """Seed of everything random, the same for both."""
    images: int | None = None
    """Held-out images they are compared on, from the first; by default all."""
    samples: int = 16
    """Importance samples an image."""
    runs: Path = Path("runs/vflow-against-flowpp")
    """Folder of the runs."""
    out: Path = Path("docs/vflow-against-flowpp")
    """Picture and results, without the suffix."""


def training(config: ComparisonConfig, preset: str) -> TrainConfig:
    """The run of one of the two: half the steps at the peak rate, half for its fall to a tenth."""
    half = config.steps // 2
    decay = (OPTIM["min_lr"] / OPTIM["lr"]) ** (1 / max(1, config.steps - half))
    return TrainConfig(
        out=config.runs / preset,
        preset=preset,
        data="photos",
        batch_size=config.batch_size,
        steps=config.steps,
        seed=config.seed,
        log_every=10,
        checkpoint_every=100,
        eval_every=max(1, config.steps // 12),
        eval_images=256,
        sample_every=0,
        optim=OptimConfig(warmup=config.steps // 12, hold=half, decay=decay, **OPTIM),
    )


def compare(config: ComparisonConfig) -> dict[str, Any]:
    """Train and evaluate both; write the picture and the results."""
    results: dict[str, Any] = {
        "steps": config.steps,
        "batch_size": config.batch_size,
        "seed": config.seed,
        "samples": config.samples,
        "models": {},
    }
    for label, preset in PRESETS.items():
        train(training(config, preset))
        found = evaluate(
            EvaluateConfig(
                model=str(config.runs / preset),
                data="photos",
                samples=config.samples,
                images=config.images,
                seed=config.seed,
            )
        )
        results["models"][label] = {
            "preset": preset,
            "parameters": found["parameters"],
            "elbo_bits_per_dim": found["elbo_bits_per_dim"],
            "bits_per_dim": found["bits_per_dim"],
        }
        results["images"], results["versions"] = found["images"], found["versions"]
    names = {
        f"{label}, {results['models'][label]['parameters']:,} parameters": (
            config.runs / preset / "metrics.jsonl"
        )
        for label, preset in PRESETS.items()
    }
    config.out.parent.mkdir(parents=True, exist_ok=True)
    title = "32x32 photographs, the same steps and seed"
    save_curves(names, config.out.with_suffix(".png"), title)
    write_json(config.out.with_suffix(".json"), results)
    return results


def table(results: dict[str, Any]) -> str:
    """Markdown: parameters and held-out bits/dim of both."""
    lines = [
        f"| | parameters | ELBO, bits/dim | {results['samples']} importance samples, bits/dim |",
        "|---|---:|---:|---:|",
    ]
    for label, model in results["models"].items():
        bounds = [model[name] for name in ("elbo_bits_per_dim", "bits_per_dim")]
        cells = [f"{bound['mean']:.3f} ± {bound['stderr']:.3f}" for bound in bounds]
        lines.append(f"| {label} | {model['parameters']:,} | {' | '.join(cells)} |")
    return "\n".join(lines)


@one_line_errors
def main() -> None:
    """The command."""
    print(table(compare(tyro.cli(ComparisonConfig, description=__doc__))))


if __name__ == "__main__":
    main()
