"""`vflow report`: a page of runs that says what their files say, and needs nothing else."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from vflow.cli import main
from vflow.plots import save_image_grid
from vflow.report.runs import what_differs

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


def _run(folder: Path, name: str = "first", **settings: Any) -> Path:
    run = folder / name
    (run / "model").mkdir(parents=True)
    (run / "samples").mkdir()
    config = {"preset": "vflow-tiny", "data": "photos", "seed": 0, "optim": {"lr": 0.001}}
    (run / "config.json").write_text(json.dumps({**config, "out": str(run), **settings}))
    lines: list[dict[str, Any]] = [
        {
            "step": step,
            "kind": "train",
            "bits_per_dim": 5 - step / 100,
            "images_per_second": 10.0 * step,
            "seconds": 36.0 * step,
        }
        for step in (10, 20, 30)
    ]
    lines.append({"step": 30, "kind": "eval", "bits_per_dim": 4.875, "images": 8, "seconds": 1260})
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    grid = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    for step in range(10, 100, 10):
        save_image_grid(grid, run / "samples" / f"step-{step:08d}.png")
    (run / "model" / "evaluation-photos-test-64.json").write_text(
        json.dumps(
            {
                "data": "photos",
                "split": "test",
                "images": 1234,
                "samples": 64,
                "elbo_bits_per_dim": {"mean": 4.5, "stderr": 0.01},
                "bits_per_dim": {"mean": 4.25, "stderr": None},
            }
        )
    )
    return run


def _report(tmp_path: Path, *runs: Path) -> str:
    main(["report", *map(str, runs), "--out", str(tmp_path / "report.html")])
    return (tmp_path / "report.html").read_text("utf-8")


def test_the_numbers_of_the_files_are_on_the_page(tmp_path: Path):
    page = _report(tmp_path, _run(tmp_path))
    cells = re.findall(r"<td[^>]*>([^<]*)</td>", page)
    summary = ["first", "vflow-tiny", "photos", "30", "4.7000", "4.8750", "200.0", "0.35"]
    assert cells[:8] == summary
    evaluation = ["first", "photos, test", "1,234", "64", "4.5000 ± 0.0100", "4.2500"]
    assert cells[8:14] == evaluation
    assert "Settings that differ" not in page
    assert page.count('alt="samples"') == 6
    for step in ("step 10<", "step 90<"):
        assert step in page


def test_settings_that_differ_and_no_others(tmp_path: Path):
    page = _report(tmp_path, _run(tmp_path), _run(tmp_path, "second", optim={"lr": 0.002}))
    (section,) = re.findall(r"Settings that differ</h2>(.*?)</table>", page, re.DOTALL)
    rows = re.findall(r"<tr>(.*?)</tr>", section)
    assert [re.findall(r">([^<]*)</t", row) for row in rows] == [
        ["setting", "first", "second"],
        ["optim.lr", "0.001", "0.002"],
    ]


def test_evaluations_that_do_not_compare_are_marked(tmp_path: Path):
    runs = [_run(tmp_path, name) for name in ("first", "second")]
    assert "Compare with care" not in _report(tmp_path, *runs)
    path = runs[1] / "model" / "evaluation-photos-test-64.json"
    found = json.loads(path.read_text())
    path.write_text(json.dumps({**found, "samples": 1, "images": 12, "precision": "bf16"}))
    page = _report(tmp_path, *runs)
    assert "care: they differ in number of images, samples, precision.</p>" in page


def test_an_estimated_bound_is_marked_and_no_exact_one_is_like_it(tmp_path: Path):
    run = _run(tmp_path)
    with open(run / "metrics.jsonl", "a") as file:
        record = {"step": 40, "kind": "eval", "bits_per_dim": 4.75, "images": 8, "seconds": 1300}
        file.write(json.dumps({**record, "estimated": True}) + "\n")
    path = run / "model" / "evaluation-photos-test-64.json"
    found = {**json.loads(path.read_text()), "samples": 1, "estimate": None}
    path.write_text(json.dumps(found))
    other = run / "model" / "evaluation-photos-test-estimate-8.json"
    other.write_text(json.dumps({**found, "estimate": {"draws": 8, "stderr": 0.002}}))
    page = _report(tmp_path, run)
    cells = re.findall(r"<td[^>]*>([^<]*)</td>", page)
    assert cells[5] == "4.7500 (estimated)"
    assert cells[8 + 4 : 8 + 6] == ["4.5000 ± 0.0100", "4.2500"]
    assert cells[14 + 4 : 14 + 6] == ["4.5000 ± 0.0100 (estimated, 8 draws)", ""]
    assert "care: they differ in how the bound is estimated.</p>" in page


def test_the_last_evaluation_has_its_standard_error(tmp_path: Path):
    run = _run(tmp_path)
    with open(run / "metrics.jsonl", "a") as file:
        record = {"step": 40, "kind": "eval", "bits_per_dim": 4.75, "images": 8, "seconds": 1300}
        file.write(json.dumps({**record, "stderr": 0.03125}) + "\n")
    assert ">4.7500 ± 0.0312<" in _report(tmp_path, run)


def test_the_digest_says_which_images_they_were():
    a, b = ({"data": d, "split": "test", "images": 8, "samples": 1} for d in ("photos", "npy:x"))
    assert what_differs([a, b]) == ["images"]
    same = {"digests": {"images": "0a"}}
    assert what_differs([a | same, b | same]) == []
    assert what_differs([a | same, a | {"digests": {"images": "1b"}}]) == ["images"]
    assert what_differs([]) == []


def test_runs_of_one_name_are_told_apart(tmp_path: Path):
    runs = [_run(tmp_path / place, "run") for place in ("a", "b")]
    page = _report(tmp_path, *runs)
    for run in runs:
        assert f"<td>{run}</td>" in page


def test_nothing_comes_from_elsewhere_and_nothing_runs(tmp_path: Path):
    page = _report(tmp_path, _run(tmp_path, "a<b&c"))
    assert "<script" not in page
    assert re.findall(r'(?:src|href)="(?!data:)', page) == []
    assert "a&lt;b&amp;c" in page
    assert "<b&c" not in page


@pytest.mark.parametrize(
    ("break_it", "error"),
    [
        (lambda run: (run / "config.json").unlink(), "must be a run's folder, but holds no config"),
        (lambda run: (run / "metrics.jsonl").write_text(""), "must hold a record of training"),
        (lambda run: (run / "metrics.jsonl").write_text("{}\n"), "line 1 is none"),
    ],
)
def test_what_is_no_run_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture, break_it: Any, error: str
):
    run = _run(tmp_path)
    break_it(run)
    with pytest.raises(SystemExit):
        _report(tmp_path, run)
    assert error in capsys.readouterr().err
    assert not (tmp_path / "report.html").exists()


@pytest.mark.skipif(CHROMIUM is None, reason="needs a Chromium")
@pytest.mark.parametrize("width", [1200, 390], ids=["desktop", "phone"])
def test_a_browser_shows_it_whole(tmp_path: Path, width: int):
    page = _report(tmp_path, _run(tmp_path), _run(tmp_path, "second", data="folder:" + 60 * "x"))
    # A page within a frame of that width: a browser's own window is no narrower than 500 pixels.
    ask = (
        "<script>onload = () => { const root = document.documentElement;"
        "parent.postMessage([root.scrollWidth, [...document.images].every("
        "image => image.naturalWidth > 0)].join(), '*') }</script>"
    )
    (tmp_path / "inner.html").write_text(page.replace("</body>", f"{ask}</body>"), "utf-8")
    (tmp_path / "outer.html").write_text(
        "<body><script>onmessage = e => document.body.dataset.found = e.data</script>"
        f'<iframe src="inner.html" style="width:{width}px;height:900px;border:0"></iframe>'
    )
    assert CHROMIUM is not None
    quiet = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=10000"]
    address = (tmp_path / "outer.html").as_uri()
    shown = subprocess.run(
        [CHROMIUM, *quiet, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", address],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    ).stdout
    (found,) = re.findall(r'data-found="(\d+),(\w+)"', shown)
    assert int(found[0]) <= width
    assert found[1] == "true"
