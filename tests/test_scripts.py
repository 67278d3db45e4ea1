"""Scripts and benchmarks run as their documentation says: by their path, from any folder."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.forks import run_fork
from vflow.runtime import threads

ROOT = Path(__file__).parents[1]
# Without a command line of their own.
STARTED_BY_OTHERS = ("bench/busy.py", "bench/ops_speed.py", "bench/ranks.py")
MAINS = [
    str(path.relative_to(ROOT))
    for folder in ("bench", "scripts")
    for path in sorted((ROOT / folder).glob("*.py"))
    if "__main__" in path.read_text()
]
MAINS = [main for main in MAINS if main not in STARTED_BY_OTHERS]
assert len(MAINS) > 6

# As `python MAIN --help` in a process that has our folder on no path; tells of the spin that
# OpenMP's threads would have, which is read from the environment when torch is imported.
HELP = """
import builtins, os, runpy, sys
usual = builtins.__import__
def watched(name, *arguments):
    if name.partition(".")[0] == "torch":
        builtins.__import__ = usual
        print("spin", os.environ.get({variable!r}), file=sys.stderr)
    return usual(name, *arguments)
builtins.__import__ = watched
sys.argv = [{main!r}, "--help"]
sys.path = [path for path in sys.path if path not in ("", {root!r})]
sys.path.insert(0, os.path.dirname({main!r}))
runpy.run_path({main!r}, run_name="__main__")
"""


@pytest.mark.parametrize("main", MAINS)
def test_help(main, tmp_path):
    """And torch is imported after vflow, which makes the spin of OpenMP's threads a short one."""
    if "kernel_report" in main:
        pytest.importorskip("triton")
    ours = ("PYTHONPATH", threads.VARIABLE, threads.WAIT_POLICY)
    environment = {name: text for name, text in os.environ.items() if name not in ours}
    code = HELP.format(main=str(ROOT / main), root=str(ROOT), variable=threads.VARIABLE)
    ran = run_fork(code, environment, cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith("usage: ")
    assert set(re.findall("^spin (.*)$", ran.stderr, re.MULTILINE)) <= {threads.SPIN_COUNT}


@pytest.mark.parametrize("main", MAINS)
def test_tyro_is_imported_where_its_absence_is_told(main):
    text = (ROOT / main).read_text()
    assert not re.search(
        r"^(import|from) (tyro|tqdm|matplotlib|scipy|skimage)\b", text, re.MULTILINE
    )
    if "tyro" in text:
        assert re.search(r"@one_line_errors\ndef main\b", text)


def test_without_the_extra_a_benchmark_says_which(tmp_path):
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['tyro'] = None\n")
    ran = subprocess.run(
        [sys.executable, ROOT / "bench/throughput.py"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 1
    line = "vflow: error: a command line needs tyro, which is not installed: "
    assert ran.stderr == f"{line}pip install 'vflow[cli]'\n"
