"""The page: one HTML file that needs nothing from elsewhere, neither files nor scripts."""

from __future__ import annotations

import base64
import html
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated

from vflow.io.evaluations import bound_of, draws_of, with_stderr
from vflow.plots import save_curves
from vflow.report.runs import RunRecord, differing_settings, read_run, what_differs
from vflow.runtime.extras import require, tyro
from vflow.runtime.files import atomic_path, require_output

SHOWN_SAMPLES = 6
"""Grids of samples shown of a run, from its first to its last."""

STYLE = """
:root { color-scheme: light dark; --line: #8885; --faint: #888 }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem }
h1, h2 { line-height: 1.2 } h2 { margin-top: 2.5rem }
.wide { overflow-x: auto }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { text-align: left; padding: .3rem .9rem .3rem 0; border-bottom: 1px solid var(--line) }
th, td { white-space: nowrap }
td.n, th.n { text-align: right }
img { max-width: 100%; height: auto } .curves { background: #fff; width: 100%; min-width: 38rem }
.samples { display: grid; gap: 1rem }
.samples { grid-template-columns: repeat(auto-fill, minmax(clamp(9rem, 22%, 14rem), 1fr)) }
.samples img { width: 100% } details { margin-top: 1rem } footer { margin-top: 2.5rem }
figure { margin: 0 } figcaption, footer { color: var(--faint); font-size: .85rem }
"""


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """Lay training runs over each other on one self-contained HTML page."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN [RUN ...]")]
    """Folders of training runs, finished or not."""
    out: Path = Path("report.html")
    """The page, .html."""

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ValueError: Naming the field, what it must be and what it is.
        """
        if not self.runs:
            raise ValueError("runs must name at least one run's folder, got none")


def report(config: ReportConfig) -> Path:
    """Write the page.

    Args:
        config: Which runs, and where it goes.

    Returns:
        Where it went.

    Raises:
        FileNotFoundError: If a folder is none of a run.
        ValueError: If a run has recorded nothing, or a file is damaged.
        OSError: If the page cannot be written.
        MissingExtra: If matplotlib is not installed.
    """
    require("matplotlib", "vflow report")
    require_output("out", Path(config.out), ".html")
    runs = _with_names_of_their_own([read_run(folder) for folder in config.runs])
    with atomic_path(config.out) as temporary:
        temporary.write_text(page(runs), encoding="utf-8")
    return Path(config.out)


def page(runs: Sequence[RunRecord]) -> str:
    """The page's HTML."""
    title = " and ".join(run.name for run in runs) if len(runs) < 4 else f"{len(runs)} runs"
    parts = [
        f"<h1>{html.escape(title)}</h1>",
        _summary(runs),
        '<h2>Curves</h2><div class="wide">'
        f'<img class="curves" alt="bits/dim against steps" src="{_curves(runs)}"></div>',
        _evaluations(runs),
        _differences(runs),
        *(_samples(run) for run in runs),
        *(_settings(run) for run in runs),
    ]
    now = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    return "\n".join(
        [
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{html.escape(title)}</title><style>{STYLE}</style></head><body>",
            *filter(None, parts),
            f"<footer>vflow report, {now}</footer></body></html>",
            "",
        ]
    )


def _summary(runs: Sequence[RunRecord]) -> str:
    head = ("run", "model", "data", "steps", "training", "test", "images/s", "hours")
    rows = [
        (
            run.name,
            run.settings.get("preset", ""),
            run.settings.get("data", ""),
            f"{run.step:,}",
            _bits(run.last("train")),
            _test(run) + " (estimated)" * run.test_is_estimated,
            f"{run.images_per_second:.1f}",
            f"{run.hours:.2f}",
        )
        for run in runs
    ]
    note = (
        "<p>Training and test are the last records, in bits/dim; test is the one-sample bound.</p>"
    )
    return _table(head, rows, numbers=5) + note


def _evaluations(runs: Sequence[RunRecord]) -> str:
    rows = [
        (
            run.name,
            f"{found['data']}, {found['split']}",
            f"{found['images']:,}",
            f"{found['samples']:,}",
            bound_of(found),
            "" if draws_of(found) else with_stderr(found["bits_per_dim"]),
        )
        for run in runs
        for found in run.evaluations
    ]
    if not rows:
        return ""
    head = ("run", "images of", "images", "samples", "one-sample bound", "importance sampling")
    different = what_differs([found for run in runs for found in run.evaluations])
    note = f"<p>Compare with care: they differ in {', '.join(different)}.</p>" if different else ""
    return "<h2>Evaluations</h2>" + _table(head, rows, numbers=4) + note


def _differences(runs: Sequence[RunRecord]) -> str:
    names = differing_settings(list(runs))
    if len(runs) < 2:
        return ""
    if not names:
        return "<h2>Settings that differ</h2><p>None.</p>"
    rows = [(name, *(run.settings.get(name, "") for run in runs)) for name in names]
    head = ("setting", *(run.name for run in runs))
    return "<h2>Settings that differ</h2>" + _table(head, rows)


def _samples(run: RunRecord) -> str:
    steps = sorted(run.samples)
    if not steps:
        return ""
    last = len(steps) - 1
    chosen = sorted({steps[round(i * last / (SHOWN_SAMPLES - 1))] for i in range(SHOWN_SAMPLES)})
    figures = "".join(
        f'<figure><img alt="samples" src="{_data_uri(run.samples[step], "image/png")}">'
        f"<figcaption>step {step:,}</figcaption></figure>"
        for step in chosen
    )
    name = html.escape(run.name)
    return f'<h2>Samples through training: {name}</h2><div class="samples">{figures}</div>'


def _settings(run: RunRecord) -> str:
    table = _table(("setting", "value"), sorted(run.settings.items()))
    return f"<details><summary>All settings of {html.escape(run.name)}</summary>{table}</details>"


def _curves(runs: Sequence[RunRecord]) -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "curves.svg")
        save_curves({run.name: run.metrics for run in runs}, path)
        return _data_uri(path, "image/svg+xml")


def _data_uri(path: Path, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], numbers: int = 0) -> str:
    """A table whose last `numbers` columns are set as numbers."""

    def line(tag: str, cells: Sequence[str]) -> str:
        first = len(cells) - numbers
        return "".join(
            f"<{tag}{' class=n' if i >= first else ''}>{html.escape(cell)}</{tag}>"
            for i, cell in enumerate(cells)
        )

    body = "".join(f"<tr>{line('td', row)}</tr>" for row in rows)
    return f'<div class="wide"><table><tr>{line("th", head)}</tr>{body}</table></div>'


def _bits(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _test(run: RunRecord) -> str:
    """The last evaluation, with its standard error where it was recorded."""
    value = run.last("test")
    if value is None or value != run.tests[-1]["bits_per_dim"]:
        return _bits(value)
    return with_stderr({"mean": value, "stderr": run.tests[-1].get("stderr")})


def _with_names_of_their_own(runs: list[RunRecord]) -> list[RunRecord]:
    """Runs of one name (a/run, b/run) are called by their paths."""
    names = [run.name for run in runs]
    if len(set(names)) == len(names):
        return runs
    return [RunRecord(**{**vars(run), "name": str(run.folder)}) for run in runs]
