"""Pictures: grids of images, photographs beside samples, training curves."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from vflow.runtime.extras import require
from vflow.runtime.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes

GAP = 2
"""Pixels between the images of a grid, and around it."""
CELL = 96
"""Pixels that an image of a grid is scaled up to, about, if it is smaller."""
SMOOTHING = 0.04
"""Width of the curves' moving average, as a share of the run."""

PAPER = (255, 255, 255)
INK = (40, 40, 40)


def save_image_grid(images: Tensor, path: str | Path, columns: int | None = None) -> None:
    """Write images as one picture, row by row; small ones are enlarged, each pixel a square.

    Args:
        images: uint8 [N, C, H, W]. Three channels are shown as RGB; of more, the first three are,
            so that RGBA is shown without its alpha; of one or two, the first is, as grey.
        path: The picture; its suffix tells the format. It is whole or not there.
        columns: Images in a row; by default what makes the grid about square.

    Raises:
        ValueError: If an argument has the wrong type, shape or range.
        OSError: If the file cannot be written.
    """
    _save(_grid(images, columns), path)


def save_side_by_side(
    left: Tensor,
    right: Tensor,
    path: str | Path,
    captions: tuple[str, str],
    columns: int | None = None,
) -> None:
    """Write two grids side by side, each under its caption.

    Args:
        left: uint8 [N, C, H, W], shown as by `save_image_grid`.
        right: Alike; N may differ.
        path: The picture; its suffix tells the format.
        captions: What the left and the right grid show.
        columns: Images in a row of each; by default what makes a grid about square.

    Raises:
        ValueError: If an argument has the wrong type, shape or range.
        OSError: If the file cannot be written.
    """
    grids = [_grid(left, columns), _grid(right, columns)]
    margin = max(16, grids[0].width // 24)
    font = ImageFont.load_default(size=max(14, min(28, grids[0].width // 18)))
    head = round(2.2 * font.getbbox("Ag")[3])
    width = sum(grid.width for grid in grids) + 3 * margin
    height = max(grid.height for grid in grids) + head + margin
    canvas = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(canvas)
    x = margin
    for grid, caption in zip(grids, captions, strict=True):
        canvas.paste(grid, (x, head))
        draw.text((x + grid.width / 2, head / 2), caption, fill=INK, font=font, anchor="mm")
        x += grid.width + margin
    _save(canvas, path)


def save_curves(
    runs: Mapping[str, str | Path],
    out_path: str | Path,
    title: str | None = None,
    levels: Mapping[str, float] | None = None,
) -> None:
    """Draw bits/dim against steps: training faint and smoothed, test as markers.

    Args:
        runs: Label -> the run's metrics.jsonl.
        out_path: The picture; its suffix tells the format.
        title: What stands above it.
        levels: Label -> bits/dim of something that does not learn, drawn as a dashed line.

    Raises:
        ValueError: If there is no run, or a file has no training record.
        OSError: If a file cannot be read or written.
        MissingExtra: If matplotlib is not installed.
    """
    require("matplotlib", "a picture of curves")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if not runs:
        raise ValueError("runs must hold at least one run, got none")
    curves = {label: _read_curves(Path(path)) for label, path in runs.items()}

    figure = Figure(figsize=(7.5, 4.5), dpi=160, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for index, (label, (train, test)) in enumerate(curves.items()):
        color = f"C{index}"
        smooth = _smooth(train[:, 1])
        axes.plot(*train.T, color=color, alpha=0.2, linewidth=0.8)
        axes.plot(train[:, 0], smooth, color=color, linewidth=1.8, label=f"{label}: training")
        if len(test):
            name = f"{label}: test, {test[-1, 1]:.3f} at the end"
            dots = axes.plot(*test.T, "o", color=color, markersize=5, label=name, zorder=3)
            dots[0].set_markeredgecolor("white")
    levels = levels or {}
    for label, level in levels.items():
        axes.axhline(level, color="0.45", linestyle="--", linewidth=1, zorder=1)
        # x as a share of the width, y in bits/dim: at the right edge, just above the line.
        place, transform = (0.995, level), axes.get_yaxis_transform()
        axes.text(*place, label, color="0.35", ha="right", va="bottom", transform=transform)
    axes.set_ylim(*_view(curves.values(), levels.values()))
    axes.set_xlabel("training steps")
    axes.set_ylabel("bits per dimension (lower is better)")
    axes.set_xlim(left=0)
    axes.xaxis.set_major_formatter(lambda step, _: f"{step:,.0f}")
    _clean(axes)
    if title is not None:
        axes.set_title(title, loc="left", fontweight="bold")
    with atomic_path(out_path) as temporary:
        figure.savefig(temporary)


def _grid(images: Tensor, columns: int | None) -> Image.Image:
    pixels = _to_nhwc(images)
    count, height, width, channels = pixels.shape
    if columns is None:
        columns = math.ceil(math.sqrt(count * height / width))
    if isinstance(columns, bool) or not isinstance(columns, int) or columns < 1:
        raise ValueError(f"columns must be an integer of at least 1, got {columns!r}")
    columns = min(columns, count)
    rows = math.ceil(count / columns)
    scale = max(1, round(CELL / max(height, width)))
    height, width = height * scale, width * scale
    pixels = pixels.repeat(scale, axis=1).repeat(scale, axis=2)
    shape = (rows * (height + GAP) + GAP, columns * (width + GAP) + GAP, channels)
    canvas = np.full(shape, PAPER[0], dtype=np.uint8)
    for index, image in enumerate(pixels):
        top = GAP + index // columns * (height + GAP)
        left = GAP + index % columns * (width + GAP)
        canvas[top : top + height, left : left + width] = image
    return Image.fromarray(canvas[..., 0] if channels == 1 else canvas)


def _to_nhwc(images: Any) -> np.ndarray:
    """What a picture can show of images: uint8 [N, C, H, W] -> [N, H, W, 1 (grey) or 3 (RGB)].

    Raises:
        ValueError: Unless they are uint8 and at least one.
    """
    if not isinstance(images, Tensor) or images.dtype != torch.uint8:
        came = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise ValueError(f"images must be a uint8 tensor, got {came}")
    if images.ndim != 4 or not images.numel():
        raise ValueError(
            f"images must have shape [N, C, H, W] with none of them 0, got {tuple(images.shape)}"
        )
    shown = images[:, : 3 if images.shape[1] >= 3 else 1]
    return shown.detach().permute(0, 2, 3, 1).cpu().numpy()


def _save(image: Image.Image, path: str | Path) -> None:
    with atomic_path(path) as temporary:
        image.save(temporary)


def _read_curves(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Steps and bits/dim [n, 2] of training and of evaluation; non-finite values left out."""
    points: dict[str, list[tuple[float, float]]] = {"train": [], "eval": []}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(keepends=True), 1):
        if not line.endswith("\n"):
            break  # a line that a running or killed process has not finished
        try:
            record = json.loads(line)
            kind = record["kind"]
            if kind not in points or record["bits_per_dim"] is None:
                continue  # what is no curve, or a mean of no steps
            point = float(record["step"]), float(record["bits_per_dim"])
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(
                f"{path} must hold JSON lines with kind, step and bits_per_dim, but line {number} "
                "is none"
            ) from error
        if all(map(math.isfinite, point)):
            points[kind].append(point)
    if not points["train"]:
        raise ValueError(f"{path} must hold a record of training, but there is none")
    train, test = (np.array(points[kind]).reshape(-1, 2) for kind in ("train", "eval"))
    return train, test


def _smooth(values: np.ndarray) -> np.ndarray:
    """A centred moving average; narrower at the start, where the curve falls steeply."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    centre = np.arange(len(values))
    reach = np.minimum(round(SMOOTHING * len(values) / 2), centre)
    stop = np.minimum(centre + reach + 1, len(values))
    return (sums[stop] - sums[centre - reach]) / (stop - centre + reach)


def _view(
    curves: Iterable[tuple[np.ndarray, np.ndarray]], levels: Iterable[float]
) -> tuple[float, float]:
    """Limits of bits/dim that leave out the first steep fall, where all runs look alike."""
    lows, highs = list(levels), list(levels)
    for train, test in curves:
        tail = np.concatenate([_smooth(train[:, 1])[len(train) // 20 :], test[:, 1]])
        lows.append(tail.min())
        highs.append(np.quantile(tail, 0.95))
    low, high = min(lows), max(highs)
    pad = max(0.05, 0.15 * (high - low))
    return low - pad, high + 2 * pad


def _clean(axes: Axes) -> None:
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
