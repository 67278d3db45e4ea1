"""`vflow score`: which images of a data set do not belong to what a model was trained on.

    vflow score RUN --data folder:uploads --in-distribution cifar10

The images of the training distribution come in three parts that share none: half of the training
images drawn fits the scores that need fitting, the other half sets the thresholds, and the test
images are what those of --data are told apart from. Nothing is learned from --data.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from vflow.data import load_images
from vflow.io.fields import (
    require_choice,
    require_int,
    require_number,
    require_seed,
    take_plain_numbers,
)
from vflow.models import ImageFlow
from vflow.models.loading import load_image_model
from vflow.runtime.distributed import Ranks
from vflow.runtime.extras import require, tyro
from vflow.runtime.files import atomic_path, write_json
from vflow.runtime.progress import progress_bar
from vflow.scores.calibration import Threshold, auroc, false_positive_rate_at, threshold_at
from vflow.scores.complexity import CODECS
from vflow.scores.judges import batch_typicality
from vflow.scores.pictures import save_bits_maps, save_extremes, save_histograms
from vflow.scores.table import Fitted, Scorer, Table

BATCHES = (10, 100)
"""Images in the batches of batch typicality."""
SHOWN = 16
"""Images at each end of the picture of extremes."""
MAPS = 8
"""Images whose bits are mapped."""


@dataclass(frozen=True, kw_only=True)
class ScoreConfig:
    """Score images by how little they look like what a model was trained on."""

    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MODEL")]
    """A trained model by name (`vflow models`), the folder of a training run or of a model, or a
    repository of the Hugging Face Hub."""
    data: str
    """The images to score: any data set that `vflow train` takes."""
    split: Literal["train", "test"] = "test"
    """Which of them."""
    in_distribution: str | None = None
    """The data set that the model was trained on. Without it there are no thresholds, and only the
    scores that need no fitting."""
    images: int | None = None
    """Images scored, from the first; by default all."""
    known_images: int = 2000
    """Training images drawn to fit on and to set thresholds by, half for each."""
    false_positive_rate: float = 0.05
    """Share of images that do belong which a threshold may flag."""
    complexity: Literal["png", "webp", "jxl"] = "webp"
    """The codec that stands for how simple an image is; jxl needs imagecodecs."""
    background: str | None = None
    """A second model, for the likelihood ratio."""
    ensemble: tuple[str, ...] = ()
    """Further models, for WAIC and disagreement."""
    fit: bool = False
    """Show grey images to an RGB model as grey, and pad smaller ones with black to its size."""
    samples: int = 1
    """Importance samples an image."""
    batch_size: int = 64
    """Images x samples at once, about."""
    data_root: Path | None = None
    """Folder where data sets are kept or downloaded to."""
    out: Path = field(default=Path("scores"))
    """Folder for scores.csv, scores.json and the pictures."""
    seed: int = 0
    """Seed of the noise and of the draw of training images."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute; auto takes CUDA where there is any."""

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ValueError: Naming the field, what it must be and what it is.
        """
        take_plain_numbers(self)
        for name in ("samples", "batch_size"):
            require_int(name, getattr(self, name), 1)
        if self.images is not None:
            require_int("images", self.images, 1)
        require_int("known_images", self.known_images, 4)
        require_number("false_positive_rate", self.false_positive_rate, above=0, below=1)
        require_choice("complexity", self.complexity, CODECS)
        require_seed(self.seed)


def score(config: ScoreConfig) -> dict[str, Any]:
    """Score images, and write a table, a summary and pictures.

    Args:
        config: What to score, by what, and where it goes.

    Returns:
        What scores.json holds: of each score its mean, and with --in-distribution its threshold,
        the share of images above it, and the AUROC against the test images.

    Raises:
        ValueError: If the config does not fit the model or the data.
        OSError: If something cannot be read or written.
        MissingExtra: If matplotlib, scipy or, for jxl, imagecodecs is not installed.
    """
    for module in ("matplotlib", "scipy"):
        require(module, "vflow score")
    if config.complexity == "jxl":
        require("imagecodecs", "codec jxl")
    out = Path(config.out)
    if out.exists() and not out.is_dir():
        raise NotADirectoryError(f"out must be a folder, but {out} is a file")
    device = Ranks().device(config.device)
    model = load_image_model(config.model, device, say=True)
    scorer = Scorer(
        model=model,
        codec=config.complexity,
        background=None
        if config.background is None
        else load_image_model(config.background, device),
        ensemble=[load_image_model(path, device) for path in config.ensemble],
        samples=config.samples,
        batch_size=config.batch_size,
        seed=config.seed,
    )
    images = _images(config, model, config.data, config.split)[: config.images]
    known = None
    if config.in_distribution is not None:
        known = _Known(config, scorer, images)
    table = _measured(scorer, images, config.data)
    results: dict[str, Any] = {
        "model": config.model,
        "data": config.data,
        "split": config.split,
        "images": len(images),
        "samples": config.samples,
        "complexity": config.complexity,
        "seed": config.seed,
    }
    test: Table = {}
    if known is not None:
        table, test = known.fitted.complete(table), known.test
        results |= known.facts() | {"batch_typicality": known.batches(table)}
    thresholds = {} if known is None else known.thresholds
    results["scores"] = {
        name: _summary(values, test.get(name), thresholds.get(name))
        for name, values in table.items()
    }
    _write_csv(table, thresholds, out / "scores.csv")
    save_histograms(table, test, thresholds, out / "histograms.png", config.data)
    save_extremes(images, table["bits_per_dim"], out / "extremes.png", SHOWN)
    worst = _most_surprising(table)[:MAPS]
    save_bits_maps(model, images[worst], out / "bits_per_pixel.png", config.seed)
    write_json(out / "scores.json", results)
    return results


def report(results: Mapping[str, Any]) -> str:
    """The results as a table for a terminal."""
    rows = [("score", "mean", "threshold", "flagged", "AUROC")]
    for name, found in results["scores"].items():
        rows.append(
            (
                name,
                f"{found['mean']:.3f}",
                *(
                    "" if found.get(key) is None else form.format(found[key])
                    for key, form in (
                        ("threshold", "{:.3f}"),
                        ("flagged", "{:.1%}"),
                        ("auroc", "{:.3f}"),
                    )
                ),
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            f"{cell:<{width}}" if index == 0 else f"{cell:>{width}}"
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


class _Known:
    """The training distribution: what is fitted, thresholds, and its test images' scores."""

    def __init__(self, config: ScoreConfig, scorer: Scorer, others: Tensor) -> None:
        assert config.in_distribution is not None
        self.name = config.in_distribution
        train = _images(config, scorer.model, self.name, "train")
        if len(train) < config.known_images:
            raise ValueError(
                f"known_images must be at most the {len(train)} training images of {self.name}, "
                f"got {config.known_images}"
            )
        source = torch.Generator().manual_seed(config.seed)
        drawn = train[torch.randperm(len(train), generator=source)[: config.known_images]]
        half = len(drawn) // 2
        self.fitted = Fitted(_measured(scorer, drawn[:half], f"{self.name}, to fit on"))
        held_out = self.fitted.complete(
            _measured(scorer, drawn[half:], f"{self.name}, for thresholds")
        )
        self.held_out = len(drawn) - half
        self.thresholds = {
            name: threshold_at(values, config.false_positive_rate)
            for name, values in held_out.items()
        }
        self._held_out_bits = held_out["bits_per_dim"]
        test = _images(config, scorer.model, self.name, "test")[: len(others)]
        self.test = self.fitted.complete(_measured(scorer, test, f"{self.name}, test"))

    def facts(self) -> dict[str, Any]:
        return {
            "in_distribution": self.name,
            "entropy_bits_per_dim": self.fitted.entropy,
            "held_out": self.held_out,
            "test_images": len(self.test["bits_per_dim"]),
        }

    def batches(self, table: Table) -> dict[str, float]:
        """AUROC of batch typicality by the batches' size, where there are two batches of each."""
        found = {}
        for size in BATCHES:
            if min(len(table["bits_per_dim"]), len(self.test["bits_per_dim"])) >= 2 * size:
                known, other = (
                    batch_typicality(part["bits_per_dim"], self.fitted.entropy, size)
                    for part in (self.test, table)
                )
                found[str(size)] = auroc(known, other)
        return found


def _images(config: ScoreConfig, model: ImageFlow, data: str, split: str) -> Tensor:
    channels, height, width = model.data_shape
    sized = data == "photos" or data.startswith("folder:")
    size = height if sized and height == width else None
    images = load_images(data, split, image_size=size, root=config.data_root).images
    if config.fit:
        if images.shape[1] == 1 and channels == 3:
            images = images.expand(-1, 3, -1, -1)
        below, beside = height - images.shape[2], width - images.shape[3]
        if below >= 0 and beside >= 0:
            edges = (beside // 2, beside - beside // 2, below // 2, below - below // 2)
            images = F.pad(images, edges)
    if tuple(images.shape[1:]) != model.data_shape:
        came = "x".join(map(str, images.shape[1:]))
        hint = "" if config.fit else "; --fit shows grey and smaller ones to an RGB model"
        raise ValueError(
            f"data must hold {channels}x{height}x{width} images like the model's, but those of "
            f"{data} are {came}{hint}"
        )
    return images


def _measured(scorer: Scorer, images: Tensor, what: str) -> Table:
    with progress_bar(scorer.passes * len(images), "image") as bar:
        bar.set_description(what)
        return scorer.measured(images, bar.update)


def _summary(
    values: np.ndarray, test: np.ndarray | None, threshold: Threshold | None
) -> dict[str, float | None]:
    found: dict[str, float | None] = {"mean": float(values.mean())}
    if test is not None and threshold is not None:
        found |= {
            "known_mean": float(test.mean()),
            "threshold": threshold.value,
            "flagged": float(threshold.flags(values).mean()),
            "known_flagged": float(threshold.flags(test).mean()),
            "auroc": auroc(test, values),
            "known_flagged_at_95_percent": false_positive_rate_at(test, values, 0.95),
        }
    return found


def _most_surprising(table: Table) -> Tensor:
    name = "density_of_states" if "density_of_states" in table else "complexity_corrected"
    return torch.from_numpy(np.argsort(-table[name], kind="stable").copy())


def _write_csv(table: Table, thresholds: Mapping[str, Threshold], path: Path) -> None:
    """A row an image: its number, its scores, and which thresholds it is above."""
    flags = {f"{name}_flagged": t.flags(table[name]) for name, t in thresholds.items()}
    with atomic_path(path) as temporary, open(temporary, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", *table, *flags])
        for number, row in enumerate(zip(*table.values(), *flags.values(), strict=True)):
            scores, marks = row[: len(table)], row[len(table) :]
            writer.writerow([number, *(f"{value:.6g}" for value in scores), *map(int, marks)])
