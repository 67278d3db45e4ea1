"""What the scripts that compare trained models share: measurements, a picture and a table."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import vflow  # noqa: F401, before torch, for the spin of its threads

# isort: split
import torch

from vflow.evaluate import EvaluateConfig, evaluate
from vflow.models.loading import load_image_model
from vflow.plots import save_curves
from vflow.runtime.files import write_json

BOUND, SAMPLED, AHEAD = "elbo_bits_per_dim", "bits_per_dim", "ahead_of_first"


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
        bound_config, sampled_config = self._evaluations(run)
        sampled, bound = evaluate(sampled_config), evaluate(bound_config)
        return {
            "parameters": bound["parameters"],
            BOUND: bound[BOUND],
            "images": bound["images"],
            SAMPLED: sampled[SAMPLED],
            "sampled_images": sampled["images"],
            "versions": bound["versions"],
        }

    def ahead(self, run: Path, other: Path) -> dict[str, float]:
        """By how many bits/dim a run's bound is below another's, image by image, once measured.

        How images differ, which is most of the bounds' standard errors, is not in the difference's.
        """
        ours, theirs = (self._bounds(path) for path in (run, other))
        differences = [theirs[image] - bits for image, bits in ours.items()]
        stderr = statistics.stdev(differences) / math.sqrt(len(differences))
        return {"mean": statistics.fmean(differences), "stderr": stderr}

    def _evaluations(self, run: Path) -> tuple[EvaluateConfig, EvaluateConfig]:
        """That of the bound and that by importance sampling, which gives a bound as well."""
        asked: dict[str, Any] = {"model": str(run), "data": self.data, "seed": self.seed}
        many = self.sampled_images if self.sampled_images is not None else self.images
        sampled = EvaluateConfig(images=many, samples=self.samples, **asked)
        same = many == self.images
        return sampled if same else EvaluateConfig(images=self.images, **asked), sampled

    def _bounds(self, run: Path) -> dict[int, float]:
        """The bound of each image, bits/dim."""
        config = self._evaluations(run)[0]
        out = config.results_path(evaluate(config)["step"])
        lines = out.with_name(f"{out.stem}.images.jsonl").read_text().splitlines()[1:]
        model = load_image_model(run)
        nats = {found["image"]: found["elbo"] for found in map(json.loads, lines)}
        bits = model.to_bits_per_dim(torch.tensor(list(nats.values()), dtype=torch.float64))
        return dict(zip(nats, bits.tolist(), strict=True))


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
    sampled = f"{results['samples']} importance samples, bits/dim"
    head = ["", "parameters", "bound, bits/dim", sampled, "ahead of the first, paired"]
    rows = []
    for label, model in results["models"].items():
        measured = [model[BOUND], model[SAMPLED], model.get(AHEAD)]
        cells = ["" if m is None else f"{m['mean']:.4f} ± {m['stderr']:.4f}" for m in measured]
        rows.append([label, f"{model['parameters']:,}", *cells])
    if not any(row[-1] for row in rows):
        head, rows = head[:-1], [row[:-1] for row in rows]
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
