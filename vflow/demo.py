"""The demonstration: a small VFlow learns photographs, and is held against PNG and WebP.

    make demo        or        vflow demo
    vflow demo --init-from photos-mini --out demo-on    # on from the weights in the package

Interrupted, it goes on where it was; finished, it shows its results again.
"""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from vflow.codecs import codec_bits_per_dim
from vflow.compression.commands import CompressConfig, compress
from vflow.data import images_of_shape
from vflow.evaluate import EvaluateConfig, evaluate
from vflow.io.fields import require_int, take_plain_numbers
from vflow.models.loading import load_image_model
from vflow.plots import save_curves, save_image_grid, save_side_by_side
from vflow.runtime.arguments import parse
from vflow.runtime.console import one_line_errors
from vflow.runtime.files import write_json
from vflow.sample import draw_samples
from vflow.train import OptimConfig, TrainConfig, train

PRESET = "vflow-demo"
STEPS = 1800
BATCH_SIZE = 16
TEST_IMAGES = 64
"""Held-out images that the table is about."""
SAMPLES = 32
"""Importance samples an image."""
WARMUP = 100
SHOWN = 64
"""Images in each picture."""
TEMPERATURE = 0.9
ARCHIVE = "photos.vflow"


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """Train a small VFlow on photographs, and compare it with PNG and lossless WebP."""

    out: Path = Path("demo")
    """Folder for everything; the same one again goes on there."""
    steps: int = STEPS
    """Training steps; more give better numbers."""
    batch_size: int = BATCH_SIZE
    """Images a step."""
    images: int = TEST_IMAGES
    """Held-out images that the comparison is about, from the first."""
    samples: int = SAMPLES
    """Importance samples an image."""
    preset: str = PRESET
    """The model; `vflow models` lists them."""
    init_from: str | None = None
    """A model to begin from, such as photos-mini, which has learned what is taught here."""
    seed: int = 0
    """Seed of everything random."""
    fresh: bool = False
    """Remove what an earlier demonstration left in `out`, and begin anew."""

    def __post_init__(self) -> None:
        """Check every field that training does not.

        Raises:
            ValueError: Naming the field, what it must be and what it is.
        """
        take_plain_numbers(self)
        for name in ("steps", "images", "samples"):
            require_int(name, getattr(self, name), 1)
        self.training()

    def training(self) -> TrainConfig:
        """The training run."""
        return TrainConfig(
            out=Path(self.out) / "run",
            preset=self.preset,
            data="photos",
            batch_size=self.batch_size,
            steps=self.steps,
            seed=self.seed,
            init_from=self.init_from,
            resume_with_changes=True,  # more steps than before are another fall of the rate
            eval_every=max(1, self.steps // 6),
            eval_images=self.images,
            sample_every=max(1, self.steps // 3),
            checkpoint_every=max(1, self.steps // 6),
            log_every=10,
            optimizer="muon",
            optim=self.optim(),
        )

    def optim(self) -> OptimConfig:
        """How it learns: at one rate for half of the steps, which then falls."""
        half = self.steps // 2
        return OptimConfig(
            lr=0.004,
            warmup=min(WARMUP, half),
            hold=half,
            fall=self.steps - half,
            min_lr=0.0001,
            ema=0.99,
        )

    def compression(self) -> CompressConfig:
        """The archive of the held-out images."""
        return CompressConfig(
            model=str(Path(self.out) / "run"),
            data="photos",
            count=self.images,
            out=Path(self.out) / ARCHIVE,
        )

    def evaluation(self) -> EvaluateConfig:
        """The evaluation of the finished model."""
        return EvaluateConfig(
            model=str(Path(self.out) / "run"),
            data="photos",
            samples=self.samples,
            images=self.images,
            seed=self.seed,
            out=Path(self.out) / "evaluations" / f"{self.steps}-steps-{self.samples}-samples.json",
        )


def demo(config: DemoConfig) -> dict[str, Any]:
    """Train, evaluate, compare, and leave pictures.

    Args:
        config: How much of everything.

    Returns:
        What results.json holds: bits/dim by method, and what they were measured on.

    Raises:
        ValueError: If the config does not fit an earlier demonstration in the folder.
        OSError: If the folder cannot be written.
        RunStopped: If training diverges.
    """
    began, out = time.monotonic(), Path(config.out)
    if config.fresh:
        _clean(out)
    print("Training a VFlow on crops of photographs; the test photographs are others.", flush=True)
    train(config.training())
    print(f"\nEvaluating it on {config.images} held-out images.", flush=True)
    evaluation = evaluate(config.evaluation())
    model = load_image_model(out / "run")
    images = images_of_shape("photos", "test", model.data_shape)[: config.images]
    print("Compressing them with it, and decoding the file to compare.", flush=True)
    archive = compress(config.compression())
    results: dict[str, Any] = {
        "images": f"{len(images)} held-out crops of photographs, {_size(images)}",
        "bits_per_dim": {
            **codec_bits_per_dim(images),
            "vflow_bound": evaluation["elbo_bits_per_dim"]["mean"],
            "vflow": evaluation["bits_per_dim"]["mean"],
        },
        "archive_bytes": archive["bytes"],
        "values": images.numel(),
        "stderr": evaluation["bits_per_dim"]["stderr"],
        "samples": config.samples,
        "steps": config.steps,
        "parameters": evaluation["parameters"],
        "seconds": round(time.monotonic() - began, 1),
        "versions": evaluation["versions"],
    }
    samples = draw_samples(model, SHOWN, TEMPERATURE, config.seed)
    save_image_grid(samples, out / "samples.png")
    captions = ("photographs it has not seen", f"its samples, temperature {TEMPERATURE}")
    save_side_by_side(images[:SHOWN], samples[: len(images)], out / "side_by_side.png", captions)
    title = f"A VFlow of {evaluation['parameters']:,} parameters on photographs"
    levels = {"PNG": results["bits_per_dim"]["png"], "WebP": results["bits_per_dim"]["webp"]}
    save_curves({"VFlow": out / "run" / "metrics.jsonl"}, out / "curves.png", title, levels)
    write_json(out / "results.json", results)
    print(f"\n{table(results)}\n\n{files(results)}\n\n{_closing(config)}")
    return results


def files(results: dict[str, Any]) -> str:
    """The sizes of real files of the same images."""
    bits, values = results["bits_per_dim"], results["values"]
    rows = [
        ("PNG", round(bits["png"] * values / 8)),
        ("WebP", round(bits["webp"] * values / 8)),
        (f"{ARCHIVE}, decoded and compared", results["archive_bytes"]),
    ]
    width = max(len(name) for name, _ in rows)
    head = "As files, in bytes; PNG and WebP each of all images in one picture"
    return "\n".join([head, "", *(f"  {name:<{width}}  {size:>9,}" for name, size in rows)])


def table(results: dict[str, Any]) -> str:
    """The results as a reader likes them."""
    bits = results["bits_per_dim"]
    rows = [
        ("PNG, at its smallest", bits["png"]),
        ("WebP, lossless, at its smallest", bits["webp"]),
        ("VFlow, one-sample bound", bits["vflow_bound"]),
        (f"VFlow, {results['samples']} importance samples", bits["vflow"]),
    ]
    width = max(len(name) for name, _ in rows)
    best = min(value for _, value in rows)
    lines = [f"  {name:<{width}}  {v:6.3f}{'  <- best' * (v == best)}" for name, v in rows]
    head = f"Bits per dimension (lower is better) on {results['images']}"
    return "\n".join([head, "", *lines])


def _closing(config: DemoConfig) -> str:
    out = config.out
    return "\n".join(
        [
            f"In {out}/:",
            "  samples.png       images that the model made up",
            "  side_by_side.png  photographs it has not seen, and its samples",
            "  curves.png        how it learned",
            f"  {ARCHIVE}      those photographs without loss (vflow list, vflow decompress)",
            "  results.json      the numbers above",
            "  run/              the training run; run/model/ is what vflow.load_model loads",
            f"More samples: vflow sample {out}/run -n 100 --temperature 0.8 --out more.png",
            f"Anew: vflow demo --fresh; longer: vflow demo --steps {4 * config.steps} --out longer",
            "On from weights in the package: vflow demo --init-from photos-mini --out demo-on",
        ]
    )


def _clean(out: Path) -> None:
    """Remove what a demonstration writes, and nothing else that may be there."""
    for folder in ("run", "evaluations"):
        if (out / folder).is_dir():
            shutil.rmtree(out / folder)
    names = ("samples.png", "side_by_side.png", "curves.png", "results.json", ARCHIVE)
    for name in names:
        (out / name).unlink(missing_ok=True)


def _size(images: Tensor) -> str:
    return "x".join(map(str, images.shape[2:]))


@one_line_errors
def main() -> None:
    """`python -m vflow.demo`: as `vflow demo`."""
    demo(parse(DemoConfig, "python -m vflow.demo"))


if __name__ == "__main__":
    main()
