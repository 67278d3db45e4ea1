"""Train one model twice, in float32 and in bfloat16, and hold the curves against each other.

    python scripts/bf16_against_fp32.py

500 steps on photographs with the same seeds: parameters, order of the images, noise. Then each is
evaluated on the test photographs in both precisions, with the same noise: the parameters as the
last step left them, for their average lags behind after so few. Leaves docs/bf16.json and .png.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import vflow  # before torch, for the spin of its threads

# isort: split
import torch

from vflow.data import load_images
from vflow.io.checkpoint import list_steps, open_checkpoint
from vflow.runtime.console import one_line_errors
from vflow.runtime.extras import tyro
from vflow.runtime.files import atomic_path, write_json
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


@one_line_errors
def main() -> None:
    """Train, evaluate, write."""
    options = tyro.cli(Options)
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
            eval_every=0,
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
        "train": {
            precision: [[r["step"], r["bits_per_dim"]] for r in records if r["kind"] == "train"]
            for precision, records in curves.items()
        },
        "test": {f"trained in {p}": evaluate_in_both(options, p) for p in PRECISIONS},
    }
    write_json(options.out.with_suffix(".json"), results)
    draw(results, options.out.with_suffix(".png"))
    print(json.dumps(results["test"], indent=1))


def evaluate_in_both(options: Options, trained_in: str) -> dict[str, float]:
    """Bits/dim (one-sample bound) of a run's model, its networks run in each precision."""
    checkpoint = open_checkpoint(
        list_steps(options.runs / trained_in / "checkpoints")[options.steps]
    )
    model = vflow.create_model(options.preset)
    model.load_state_dict(checkpoint.tensors("model"))
    model.eval()
    images = load_images("photos", "test", image_size=model.data_shape[-1]).images
    found = {}
    for precision in PRECISIONS:
        model.set_precision(precision)
        noise = torch.Generator().manual_seed(0)
        bits = [model.bits_per_dim(batch, generator=noise) for batch in images.split(32)]
        found[f"run in {precision}"] = torch.cat(bits).double().mean().item()
    return found


def draw(results: dict[str, Any], path: Path) -> None:
    """Both curves, and below them their difference."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    for number, precision in enumerate(PRECISIONS):
        steps, bits = zip(*results["train"][precision], strict=True)
        above.plot(steps, bits, color=f"C{number}", linewidth=1, label=precision)
    above.set_ylabel("training bits/dim (bound)")
    above.set_ylim(top=results["train"]["fp32"][0][1] * 0.8)
    above.legend(frameon=False)
    pairs = zip(results["train"]["fp32"], results["train"]["bf16"], strict=True)
    steps, gaps = zip(*[(a[0], b[1] - a[1]) for a, b in pairs], strict=True)
    below.plot(steps, gaps, "C2", linewidth=1)
    below.axhline(0, color="grey", linewidth=0.5)
    below.set_ylabel("bf16 - fp32")
    below.set_xlabel("step")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


if __name__ == "__main__":
    main()
