"""Run the tutorials in docs/tutorials from their first cell to their last, and keep what they show.

    make notebooks        or        python scripts/notebooks.py [NAME ...]

Each runs in a folder of its own, which is removed. An error in a cell ends the run with its
traceback, and leaves the notebook as it was.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[1] / "docs" / "tutorials"
LARGEST = 300_000
"""Bytes of a notebook with its pictures."""
SECONDS = 1200
"""Longest time of a cell."""


def run(path: Path) -> None:
    """Execute a notebook and write it back with its outputs."""
    import nbformat  # not among vflow's own requirements: `make notebooks` installs them
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        NotebookClient(
            notebook,
            timeout=SECONDS,
            resources={"metadata": {"path": folder}},
            record_timing=False,
            coalesce_streams=True,
        ).execute()
    for cell in notebook.cells:
        if cell.cell_type == "code":
            for output in cell.outputs:
                _tidy(output)
    # What depends on the machine that ran it: which Python, and under what name.
    notebook.metadata = {"language_info": {"name": "python"}}
    text = nbformat.writes(notebook) + "\n"
    if len(text.encode()) > LARGEST:
        raise ValueError(f"{path.name} must stay below {LARGEST:,} bytes, got {len(text):,}")
    path.write_text(text, encoding="utf-8")


def _tidy(output: Any) -> None:
    """Keep of a picture the picture alone, without the text that stands for its object."""
    data = output.get("data", {})
    if "image/png" in data:
        output["data"] = {"image/png": data["image/png"]}


def main() -> None:
    """Run the notebooks that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="without .ipynb; by default all")
    names = parser.parse_args().names
    paths = [FOLDER / f"{name}.ipynb" for name in names] or sorted(FOLDER.glob("*.ipynb"))
    # Cells that call `vflow` find the one beside the Python that runs them.
    beside = Path(sys.executable).parent
    os.environ["PATH"] = os.pathsep.join([str(beside), os.environ.get("PATH", "")])
    # Progress bars are for terminals; here they would be a warning about widgets.
    os.environ["PYTHONWARNINGS"] = "ignore:IProgress not found"
    if shutil.which("vflow") is None:
        raise SystemExit("the tutorials need vflow installed: make notebooks does so")
    for path in paths:
        began = time.monotonic()
        run(path)
        print(f"{path.stem}: {time.monotonic() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()
