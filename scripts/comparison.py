"""What the scripts that compare trained models share: measurements, a picture and a table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vflow.evaluate import EvaluateConfig, evaluate
from vflow.plots import save_curves
from vflow.runtime.files import write_json

BOUND, SAMPLED = "elbo_bits_per_dim", "bits_per_dim"


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What models are trained and measured on: the flags that the scripts have in common."""

    data: str = "cifar10"
    """Data set, as `vflow train` names it."""
    batch_size: int = 64
    """Images a step."""
    seed: int = 0
    """Seed of everything random, the same for all."""
    images: int | None = None
    """Held-out images of the bound, from the first; by default all."""
    sampled_images: int | None = None
    """Held-out images of the importance sampling, from the first; by default those of the bound."""
    samples: int = 16
    """Importance samples an image."""

    def measure(self, run: Path) -> dict[str, Any]:
        """Bound and importance-sampled bits/dim of a run, and of how many images."""
        asked: dict[str, Any] = {"model": str(run), "data": self.data, "seed": self.seed}
        many = self.sampled_images if self.sampled_images is not None else self.images
        sampled = evaluate(EvaluateConfig(images=many, samples=self.samples, **asked))
        # Importance sampling gives the bound of its images as well.
        bound = (
            sampled
            if many == self.images
            else evaluate(EvaluateConfig(images=self.images, **asked))
        )
        return {
            "parameters": bound["parameters"],
            BOUND: bound[BOUND],
            "images": bound["images"],
            SAMPLED: sampled[SAMPLED],
            "sampled_images": sampled["images"],
            "versions": bound["versions"],
        }


def write(
    out: Path,
    results: Mapping[str, Any],
    curves: Mapping[str, Path],
    title: str,
    levels: Mapping[str, float] | None = None,
) -> None:
    """Write a comparison's picture and its results, as OUT.png and OUT.json."""
    out.parent.mkdir(parents=True, exist_ok=True)
    metrics = {label: run / "metrics.jsonl" for label, run in curves.items()}
    save_curves(metrics, out.with_suffix(".png"), title, levels)
    write_json(out.with_suffix(".json"), results)


def table(results: Mapping[str, Any]) -> str:
    """Markdown: parameters and held-out bits/dim of each of results["models"]."""
    lines = [
        f"| | parameters | bound, bits/dim | {results['samples']} importance samples, bits/dim |",
        "|---|---:|---:|---:|",
    ]
    for label, model in results["models"].items():
        cells = [
            f"{model[name]['mean']:.4f} ± {model[name]['stderr']:.4f}" for name in (BOUND, SAMPLED)
        ]
        lines.append(f"| {label} | {model['parameters']:,} | {' | '.join(cells)} |")
    return "\n".join(lines)
