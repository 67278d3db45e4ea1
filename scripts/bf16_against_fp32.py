"""Train one model twice, in float32 and in bfloat16, and hold the curves against each other.

    python scripts/bf16_against_fp32.py

500 steps on photographs with the same seeds: parameters, order of the images, noise. Then the model
that was trained in float32 is evaluated in both precisions, on the same noise. Leaves
docs/bf16.json and docs/bf16.png.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro

import vflow
from vflow.data import load_images
from vflow.files import atomic_path, write_json
from vflow.train import OptimConfig, TrainConfig, train

PRECISIONS = ("fp32", "bf16")


@dataclass(frozen=True, kw_only=True)
class Options:
    """Train one model twice, in float32 and in bfloat16."""

    preset: str = "vflow-photos"
    """The model."""
    steps: int = 500
    """Steps of each run."""
    batch_size: int = 16
    """Images a step."""
    runs: Path = Path("runs/bf16")
    """Folder of the runs; they go on where they were."""
    out: Path = Path("docs/bf16")
    """The results: this with .json and .png."""


def main(options: Options) -> None:
    """Train, evaluate, write."""
    curves = {}
    for precision in PRECISIONS:
        config = TrainConfig(
            out=options.runs / precision,
            preset=options.preset,
            data="photos",
            batch_size=options.batch_size,
            steps=options.steps,
            precision=precision,  # type: ignore[arg-type]
            log_every=10,
            eval_every=100,
            sample_every=0,
            optim=OptimConfig(warmup=100),
        )
        train(config)
        lines = (config.out / "metrics.jsonl").read_text().splitlines()
        curves[precision] = [json.loads(line) for line in lines]
    results = {
        "preset": options.preset,
        "steps": options.steps,
        "batch_size": options.batch_size,
        "torch": torch.__version__,
        "train": {p: _values(curves[p], "train") for p in PRECISIONS},
        "test": {p: _values(curves[p], "eval") for p in PRECISIONS},
        "same_model": evaluate_in_both(options),
    }
    write_json(options.out.with_suffix(".json"), results)
    draw(results, options.out.with_suffix(".png"))
    print(json.dumps({key: results[key] for key in ("test", "same_model")}, indent=1))


def _values(records: list[dict[str, Any]], kind: str) -> list[list[float]]:
    return [[r["step"], r["bits_per_dim"]] for r in records if r["kind"] == kind]


@torch.no_grad()
def evaluate_in_both(options: Options) -> dict[str, float]:
    """Bits/dim of the model trained in float32, its networks run in each precision."""
    model = vflow.load_model(options.runs / "fp32" / "model")
    assert isinstance(model, vflow.VFlow)
    model.eval()
    images = load_images("photos", "test", image_size=model.data_shape[-1]).images
    found = {}
    for precision in PRECISIONS:
        model.set_precision(precision)
        noise = torch.Generator().manual_seed(0)
        bits = [model.bits_per_dim(batch, generator=noise) for batch in images.split(32)]
        found[precision] = torch.cat(bits).double().mean().item()
    return found


def draw(results: dict[str, Any], path: Path) -> None:
    """Both curves, and below them their difference."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    for number, precision in enumerate(PRECISIONS):
        steps, bits = zip(*results["train"][precision], strict=True)
        above.plot(steps, bits, color=f"C{number}", linewidth=1, label=f"{precision}, training")
        steps, bits = zip(*results["test"][precision], strict=True)
        above.plot(steps, bits, f"C{number}o", label=f"{precision}, test (averaged parameters)")
    above.set_ylabel("bits/dim (bound)")
    above.set_ylim(top=results["train"]["fp32"][0][1] * 0.8)
    above.legend(frameon=False)
    for kind, style in (("train", "-"), ("test", "o")):
        pairs = zip(results[kind]["fp32"], results[kind]["bf16"], strict=True)
        steps, gaps = zip(*[(a[0], b[1] - a[1]) for a, b in pairs], strict=True)
        below.plot(steps, gaps, f"C2{style}", linewidth=1)
    below.axhline(0, color="grey", linewidth=0.5)
    below.set_ylabel("bf16 - fp32")
    below.set_xlabel("step")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


if __name__ == "__main__":
    main(tyro.cli(Options))
