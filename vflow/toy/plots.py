"""Pictures of the toy study: densities, samples, their paths through the layers, the grid."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from vflow.runtime.files import atomic_path
from vflow.runtime.randomness import Stream, mix
from vflow.toy.config import DATA_DIMS, Experiment
from vflow.toy.densities import DENSITIES
from vflow.toy.stacked import Stack

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SHOWN = 20_000
"""Points of a picture's histograms."""
SCATTERED, SCATTERED_IN_SPACE = 6000, 3000
"""Points of a two- and a three-dimensional scatter."""
BINS = 140
GRID = 160
"""Points of a density's grid, a side."""


def density_on_grid(stack: Stack, extent: float, size: int, samples: int, seed: int) -> Tensor:
    """p(x) by importance sampling on a grid of the square [-extent, extent]^2.

    Args:
        stack: One or more models.
        extent: Half the square's side.
        size: Grid points a side.
        samples: Importance samples a grid point.
        seed: Of their noise.

    Returns:
        [S, size, size]; the second index is x's first coordinate, the third its second.
    """
    axis = torch.linspace(-extent, extent, size)
    grid = torch.cartesian_prod(axis, axis).to(stack.parameters.dtype)
    source = torch.Generator().manual_seed(mix(seed, Stream.EVALUATION, 1))
    log_prob = stack.log_prob(grid.expand(len(stack), -1, -1), samples, source)
    return log_prob.exp().unflatten(1, (size, size))


def save_density(experiment: Experiment, stack: Stack, path: str | Path) -> None:
    """Draw the data, the first model's density and its samples, side by side.

    Raises:
        OSError: If the file cannot be written.
    """
    density = DENSITIES[experiment.density]
    one = Stack(stack.models()[:1])
    source = torch.Generator().manual_seed(mix(experiment.seed, Stream.SAMPLES))
    extent = density.extent
    total = one.dims + one.extra_dims
    samples = one.paths(torch.randn(1, SHOWN, total, generator=source))[-1][0, :, :DATA_DIMS]
    grid = density_on_grid(one, extent, GRID, experiment.samples, experiment.seed)[0]

    figure = _figure(9.6, 3.5)
    left, middle, right = figure.subplots(1, 3)
    _histogram(left, density.sample(SHOWN, source), extent)
    _image(middle, grid.numpy(), extent)
    _histogram(right, samples, extent)
    titles = ("data", f"density of a {experiment.title}", "its samples")
    for axes, title in zip((left, middle, right), titles, strict=True):
        axes.set_title(title, fontsize=10)
    _save(figure, path)


def save_paths(experiment: Experiment, stack: Stack, path: str | Path) -> None:
    """Draw samples of the first model on their way through its layers, latent to data.

    Each keeps the colour of its direction in the latent's first two coordinates. Flows of two
    dimensions are drawn with contours of the samples' density (Chen et al., 2020, Fig. 2), wider
    ones as points in space (Fig. 3): the two data coordinates and the first extra one.

    Raises:
        OSError: If the file cannot be written.
    """
    one = Stack(stack.models()[:1])
    source = torch.Generator().manual_seed(mix(experiment.seed, Stream.SAMPLES, 1))
    latent = torch.randn(1, SHOWN, one.dims + one.extra_dims, generator=source)
    paths = [points[0].numpy() for points in one.paths(latent)]
    first, second = latent[0, :, 0], latent[0, :, 1]
    colors = torch.atan2(second, first).numpy()
    # Long flows are shown at some of their layers.
    shown = sorted({round(i) for i in np.linspace(0, len(paths) - 1, min(len(paths), 7))})
    figure = _figure(2.6 * len(shown), 2.9)
    for column, layer in enumerate(shown):
        points, place = paths[layer], (1, len(shown), column + 1)
        axes: Any  # the stubs know no axes of three dimensions
        if one.extra_dims == 0:
            axes = figure.add_subplot(*place)
            x, y = points[:SCATTERED].T
            axes.scatter(x, y, c=colors[:SCATTERED], cmap="twilight", s=1.0, linewidths=0)
            _contours(axes, points)
        else:
            axes = figure.add_subplot(*place, projection="3d")
            x, y, z = points[:SCATTERED_IN_SPACE, :3].T
            near = colors[:SCATTERED_IN_SPACE]
            axes.scatter(x, y, z, c=near, cmap="twilight", s=1.5, linewidths=0)
            axes.view_init(elev=40, azim=-75)
            axes.set_zticks([])
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set_title(_layer_name(layer, len(paths) - 1), fontsize=10)
    _save(figure, path)


def _layer_name(layer: int, last: int) -> str:
    if layer in (0, last):
        return "data space" if layer else "latent"
    return f"after {layer} layer{'s' * (layer > 1)}"


def save_study(
    results: Mapping[tuple[int, int], Mapping[str, Any]], title: str, path: str | Path
) -> None:
    """Draw log-likelihood against steps, a curve for each number of dimensions (Fig. 4).

    Args:
        results: (dims, steps) -> mean and deviation over the seeds, nats.
        title: What stands above it.
        path: The picture.

    Raises:
        OSError: If the file cannot be written.
    """
    figure = _figure(6.8, 4.4)
    axes = figure.add_subplot()
    steps = sorted({step for _, step in results})
    for color, dims in enumerate(sorted({dims for dims, _ in results})):
        cells = [(place, results.get((dims, step))) for place, step in enumerate(steps)]
        places, found = zip(*((place, cell) for place, cell in cells if cell), strict=True)
        label = "Glow, 2 dimensions" if dims == DATA_DIMS else f"VFlow, {dims} dimensions"
        axes.errorbar(
            # A little apart, so that no bar hides another.
            [place + 0.04 * (color - 2) for place in places],
            [cell["mean"] for cell in found],
            yerr=[cell["deviation"] for cell in found],
            marker="o",
            markersize=4,
            capsize=2.5,
            linewidth=1.5,
            color=f"C{color}",
            label=label,
        )
    axes.set_xticks(range(len(steps)), [str(step) for step in steps])
    axes.set_xlabel("steps of p and q together")
    axes.set_ylabel("log-likelihood, nats (higher is better)")
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9)
    axes.set_title(title, loc="left", fontsize=10)
    _save(figure, path)


def study_table(results: Mapping[tuple[int, int], Mapping[str, Any]]) -> str:
    """The study in Markdown: a row for each number of steps, a column for each of dimensions."""
    dims = sorted({d for d, _ in results})
    rows = [["steps", *(f"D = {d}{' (Glow)' * (d == DATA_DIMS)}" for d in dims)]]
    rows.append(["---:"] * len(rows[0]))
    for step in sorted({s for _, s in results}):
        cells = [results.get((d, step)) for d in dims]
        texts = [f"{c['mean']:.3f} ± {c['deviation']:.3f}" if c else "" for c in cells]
        rows.append([str(step), *texts])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _figure(width: float, height: float) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _histogram(axes: Axes, points: Tensor, extent: float) -> None:
    edges = np.linspace(-extent, extent, BINS + 1)
    counts, _, _ = np.histogram2d(points[:, 0].numpy(), points[:, 1].numpy(), bins=[edges, edges])
    _image(axes, counts, extent)


def _image(axes: Axes, values: np.ndarray, extent: float) -> None:
    # A few very dense cells would darken all others.
    top = float(np.quantile(values, 0.995)) or None
    limits = (-extent, extent, -extent, extent)
    axes.imshow(values.T, origin="lower", extent=limits, cmap="viridis", vmin=0, vmax=top)
    axes.set_xticks([])
    axes.set_yticks([])


def _contours(axes: Axes, points: np.ndarray) -> None:
    """Contours of the points' smoothed histogram."""
    low, high = np.quantile(points, [0.002, 0.998], axis=0)
    centre, reach = (low + high) / 2, 0.55 * (high - low).max()
    edges = [np.linspace(middle - reach, middle + reach, 81) for middle in centre]
    smooth, _, _ = np.histogram2d(points[:, 0], points[:, 1], bins=edges)
    bell = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
    for axis in (0, 1):
        smooth = np.apply_along_axis(np.convolve, axis, smooth, bell, "same")
    middles = [(edge[1:] + edge[:-1]) / 2 for edge in edges]
    levels = np.linspace(0.1, 0.9, 5) * smooth.max()
    axes.contour(*middles, smooth.T, levels=levels, colors="black", linewidths=0.5, alpha=0.6)
    axes.set_xlim(edges[0][0], edges[0][-1])
    axes.set_ylim(edges[1][0], edges[1][-1])
    axes.set_aspect("equal")


def _save(figure: Figure, path: str | Path) -> None:
    with atomic_path(path) as temporary:
        figure.savefig(temporary)
