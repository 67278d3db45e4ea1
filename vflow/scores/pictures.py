"""Pictures of scores: histograms, the images at both ends, and where in an image the bits go."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vflow.models import ImageFlow
from vflow.plots import save_side_by_side
from vflow.runtime.extras import require
from vflow.runtime.files import atomic_path
from vflow.scores.calibration import Threshold
from vflow.scores.pixel_bits import pixel_bits

Numbers = NDArray[np.float64]
BINS = 60
TAIL = 0.005
"""Share at each end that a histogram's range leaves out: one odd image would squeeze the rest."""


def save_histograms(
    table: Mapping[str, Numbers],
    known: Mapping[str, Numbers],
    thresholds: Mapping[str, Threshold],
    path: str | Path,
    data: str,
) -> None:
    """Draw a histogram of each score, beside that of known images where there are some.

    Args:
        table: Score -> values of the images scored.
        known: Score -> values of test images of the training distribution; may be empty.
        thresholds: Score -> threshold, drawn as a line; may be empty.
        path: The picture; its suffix tells the format.
        data: What the images scored are called.

    Raises:
        OSError: If the file cannot be written.
        MissingExtra: If matplotlib is not installed.
    """
    require("matplotlib", "a picture of scores")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(3, len(table))
    rows = math.ceil(len(table) / columns)
    figure = Figure(figsize=(4.2 * columns, 2.6 * rows), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for panel, (name, values) in zip(axes, table.items(), strict=False):
        groups = {data: values}
        if name in known:
            groups["in distribution"] = known[name]
        everything = np.concatenate(list(groups.values()))
        low, high = np.quantile(everything, [TAIL, 1 - TAIL])
        edges = np.linspace(low, high if high > low else low + 1, BINS)
        for index, (label, group) in enumerate(groups.items()):
            share = np.full(len(group), 1 / len(group))
            panel.hist(
                group.clip(edges[0], edges[-1]),
                edges,
                weights=share,
                alpha=0.55,
                color=f"C{index}",
                label=label,
            )
        if name in thresholds:
            panel.axvline(thresholds[name].value, color="0.3", linestyle="--", linewidth=1)
        panel.set_title(name.replace("_", " "), loc="left", fontsize=10)
        panel.set_yticks([])
        panel.spines[["top", "right", "left"]].set_visible(False)
    for panel in axes[len(table) :]:
        panel.set_visible(False)
    axes[0].legend(frameon=False, fontsize=8)
    with atomic_path(path) as temporary:
        figure.savefig(temporary)


def save_extremes(images: Tensor, bits: Numbers, path: str | Path, count: int) -> None:
    """Write the images of the least and of the most bits/dim side by side.

    Args:
        images: uint8 [N, C, H, W].
        bits: Bits/dim of each, [N].
        path: The picture; its suffix tells the format.
        count: Images at each end, at most.
    """
    order = torch.from_numpy(np.argsort(bits, kind="stable").copy())
    captions = ("most likely", "least likely")
    save_side_by_side(images[order[:count]], images[order.flip(0)[:count]], path, captions)


def save_bits_maps(model: ImageFlow, images: Tensor, path: str | Path, seed: int) -> None:
    """Write images above maps of the bits that each of their pixels takes.

    Args:
        model: A model of images, in evaluation mode.
        images: uint8 [N, C, H, W].
        path: The picture; its suffix tells the format.
        seed: Seed of the noise.

    Raises:
        OSError: If the file cannot be written.
        MissingExtra: If matplotlib is not installed.
    """
    require("matplotlib", "a picture of scores")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    source = torch.Generator(model.device).manual_seed(seed)
    bits = pixel_bits(model, images.to(model.device), generator=source).cpu()
    figure = Figure(figsize=(1.5 * len(images) + 0.8, 3.2), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(2, len(images), squeeze=False)
    low, high = np.quantile(bits.numpy(), [0.01, 0.99])
    for image, part, (above, below) in zip(images, bits, panels.T, strict=True):
        shown = image[:3] if len(image) >= 3 else image[:1]
        pixels = shown.permute(1, 2, 0).cpu().numpy()
        above.imshow(
            pixels.squeeze(-1) if len(shown) == 1 else pixels, cmap="gray", vmin=0, vmax=255
        )
        drawn = below.imshow(part.numpy(), vmin=low, vmax=high, cmap="magma")
    for panel in panels.flatten():
        panel.set_axis_off()
    figure.colorbar(drawn, ax=panels, label="bits a pixel", shrink=0.8)
    with atomic_path(path) as temporary:
        figure.savefig(temporary)
