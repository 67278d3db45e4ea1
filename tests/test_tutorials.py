"""The tutorials: the code of the quick ones runs, and all hold what they show."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "docs" / "tutorials"
TUTORIALS = sorted(FOLDER.glob("*.ipynb"))
QUICK = ("compress", "sample-and-interpolate", "write-an-operation")
"""`make notebooks` runs the others too."""
# What a tutorial's code has much of, and how little is enough for it to run.
LESS = {
    "compress": {"picture.height - 63": "65", "picture.width - 63": "65", "[:128]": "[:8]"},
    "sample-and-interpolate": {"sample(8,": "sample(2,", "samples=4": "samples=2", "-n 16": "-n 2"},
    "write-an-operation": {"randn(256, 64,": "randn(16, 64,", "repeats=25": "repeats=2"},
}
SHELL = "%%sh\n"


@pytest.mark.parametrize("name", QUICK)
def test_the_code_of_a_tutorial_runs(name: str, tmp_path: Path) -> None:
    """In a process of its own: tutorials register kinds and operations."""
    path = FOLDER / f"{name}.ipynb"
    lines = ["import subprocess"]
    for cell in _cells(path):
        if cell.startswith(SHELL):
            code = cell.removeprefix(SHELL)
            lines.append(f"subprocess.run(['sh', '-ec', {code!r}], check=True)")
        else:
            lines.append(cell)
    text = "\n".join(lines)
    for much, little in LESS[name].items():
        assert much in text
        text = text.replace(much, little)
    (tmp_path / "tutorial.py").write_text(text)
    root, beside = str(FOLDER.parents[1]), str(Path(sys.executable).parent)
    environment = {
        **os.environ,
        "MPLBACKEND": "Agg",
        "PATH": os.pathsep.join([beside, os.environ.get("PATH", "")]),
        "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")]),
    }
    ran = subprocess.run(
        [sys.executable, "tutorial.py"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr[-3000:]


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda p: p.stem)
def test_a_tutorial_has_run_and_is_small(path: Path) -> None:
    notebook = json.loads(path.read_text("utf-8"))
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell["outputs"]]
    assert outputs
    assert all(output["output_type"] != "error" for output in outputs)
    assert path.stat().st_size < 300_000
    first = "".join(notebook["cells"][0]["source"])
    assert "**What you will have at the end:**" in first


def _cells(path: Path) -> list[str]:
    cells = json.loads(path.read_text("utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
