"""`vflow toy`: one experiment with its pictures, or the grid of Fig. 4."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from vflow.runtime.extras import require
from vflow.runtime.files import write_json
from vflow.runtime.progress import bar
from vflow.toy.config import Experiment, ToyConfig
from vflow.toy.densities import DENSITIES
from vflow.toy.plots import save_density, save_paths, save_study, study_table
from vflow.toy.stacked import Stack
from vflow.toy.training import load_models, run


def toy(config: ToyConfig) -> dict[str, Any]:
    """Train, measure, print and draw, or go on where an earlier call was interrupted.

    Args:
        config: What to run, and where to leave it.

    Returns:
        The results: those of the experiment (`vflow.toy.training.run`), or of the study's, each
        under its name.

    Raises:
        ValueError: If the folder holds an experiment of the same name and other settings.
        OSError: If the folder cannot be written.
        MissingExtra: If matplotlib is not installed.
        RunStopped: If it is interrupted, or training diverges.
    """
    require("matplotlib", "the toy study")
    torch.set_num_threads(config.threads)
    return _study(config) if config.study else _single(config)


def _single(config: ToyConfig) -> dict[str, Any]:
    experiment = config.experiment()
    folder = Path(config.out) / experiment.name
    results = run(experiment, folder)
    print(summary(experiment, results))
    stack = Stack(load_models(folder, experiment.seeds))
    save_density(experiment, stack, folder / "density.png")
    save_paths(experiment, stack, folder / "paths.png")
    print(
        f"In {folder}: results.json, density.png (data, density, samples), paths.png (samples "
        "through the layers), models/ (vflow.load_model opens each)"
    )
    return results


def _study(config: ToyConfig) -> dict[str, Any]:
    grid, found = config.grid(), {}
    with bar(total=len(grid), desc="study", unit="experiment", disable=None) as shown:
        for experiment in grid:
            shown.set_postfix_str(experiment.title)
            found[experiment] = run(experiment, Path(config.out) / experiment.name)
            shown.update()
    cells = {(e.dims, e.steps): results for e, results in found.items()}
    title = f"{config.density}, {config.iterations:,} iterations, {config.seeds} seeds"
    out = Path(config.out) / f"study-{config.density}-{config.iterations}"
    save_study(cells, title, out.with_suffix(".png"))
    by_name = {experiment.name: results for experiment, results in found.items()}
    write_json(out.with_suffix(".json"), by_name)
    print(f"Log-likelihood in nats, mean ± deviation; {title}\n\n{study_table(cells)}\n")
    print(f"In {config.out}: {out.name}.png, {out.name}.json, a folder for each experiment")
    return by_name


def summary(experiment: Experiment, results: Mapping[str, Any]) -> str:
    """The results in words, beside the paper's and the best there is."""
    lines = [
        f"{experiment.title} on {experiment.density}, {experiment.iterations:,} iterations, "
        f"{experiment.seeds} seeds",
        f"  log-likelihood  {results['mean']:.3f} +- {results['deviation']:.3f} nats",
    ]
    if experiment.paper:
        lines.append(f"  in the paper    {experiment.paper} (100,000 iterations)")
    entropy = DENSITIES[experiment.density].entropy
    if entropy is not None:
        lines.append(f"  the data's own  {-entropy:.3f}")
    speed = f"{results['seconds']:.0f} s, {results['iterations_per_second']:.0f} iterations/s"
    return "\n".join([*lines, f"  training        {speed}"])
