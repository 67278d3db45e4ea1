"""The figures of bench/throughput.py as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.workloads import BISECTED
from vflow.runtime.files import atomic_path


def draw_chart(results: list[dict[str, Any]], machine: dict[str, Any], path: Path) -> None:
    """Bars of images a second, a row of panels for each preset, a panel for each workload."""
    from matplotlib.figure import Figure

    panels = [(result, *panel) for result in results for panel in rows_by_workload(result["rows"])]
    figure = Figure(figsize=(9, 0.6 + 1.7 * len(panels)), layout="constrained")
    axes = figure.subplots(len(panels), 1, squeeze=False)[:, 0]
    for axis, (result, workload, rows) in zip(axes, panels, strict=True):
        names = [label_of(row) for row in rows]
        rates = [row["images_per_second"] for row in rows]
        bars = axis.barh(names, rates, color=[f"C{name == 'peer':d}" for name in names])
        axis.bar_label(bars, labels=[_label(row) for row in rows], padding=4, fontsize=8)
        axis.invert_yaxis()
        axis.set_xlim(0, 1.6 * max(rates))
        axis.set_title(f"{result['preset']}: {workload}", loc="left", fontsize=10)
        axis.spines[["top", "right"]].set_visible(False)
    axes[-1].set_xlabel(f"images/s, batch {results[-1]['batch_size']}, {machine['device']}")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def rows_by_workload(rows: list[dict[str, Any]]) -> list[tuple[str, list[dict[str, Any]]]]:
    """Each workload with its rows; sampling by bisection is a way of sampling."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        workload = "sample" if row["workload"] == BISECTED else row["workload"]
        groups.setdefault(workload, []).append(row)
    return list(groups.items())


def label_of(row: dict[str, Any]) -> str:
    """The name of a row within its workload."""
    return row["configuration"] + (", bisecting" if row["workload"] == BISECTED else "")


def _label(row: dict[str, Any]) -> str:
    label = f"{row['images_per_second']:.3g}"
    if "flops" in row:
        share = row["fraction_of_matrix_product"]
        label += f"  ({row['flops_per_second'] / 1e9:.0f} GFLOP/s, {share:.0%} of a matrix product)"
    return label
