"""scripts/gpu_check.py: what it will run on a GPU exists, and a bad stage does not stop it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import tyro

from bench import ops, throughput
from scripts import every_operation, gpu_check
from scripts.gpu_check import Stage

PLANNED = {
    (stage.name, rehearse): stage
    for rehearse in (False, True)
    for stage in gpu_check.stages("some-gpu", rehearse)
}


def python(code: str, seconds: int = 30, **fields) -> Stage:
    return Stage(name="a stage", command=(sys.executable, "-c", code), seconds=seconds, **fields)


@pytest.mark.parametrize("key", PLANNED, ids=str)
def test_every_stage_names_what_there_is(key, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    command = PLANNED[key].command
    for word in command:
        if word.startswith(("tests/", "bench/", "scripts/")) and not word.endswith(".json"):
            assert (gpu_check.ROOT / word).exists()
    arguments = list(command)
    if "bench/ops.py" in command:
        options = tyro.cli(ops.Options, args=arguments[2:])
        assert {case.operation for case in ops.choose(options)} == set(options.only)
    elif "bench/throughput.py" in command:
        tyro.cli(throughput.Options, args=arguments[2:])
    elif "scripts/every_operation.py" in command:
        assert command[-1] in every_operation.DEVICES
        assert command[-2] == "--backend"
    else:
        assert "pip" in command or "pytest" in command or command[1:] == ("-m", "vflow", "info")


def test_stages_fit_into_eight_minutes():
    assert gpu_check.SECONDS <= 8 * 60


def test_a_stage_passes_or_fails_by_its_exit_status():
    assert gpu_check.run(python(""), 30).result == "passed"
    assert gpu_check.run(python("raise SystemExit(3)"), 30).result == "failed: exit status 3"
    seen = python("import os; assert os.environ['SEEN'] == 'yes'", environment={"SEEN": "yes"})
    assert gpu_check.run(seen, 30).result == "passed"


def test_a_stage_out_of_time_is_ended_with_its_children(tmp_path):
    alive = tmp_path / "alive"
    child = f"import time, pathlib\nwhile 1: pathlib.Path({str(alive)!r}).touch(); time.sleep(0.05)"
    stage = python(f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])", 2)
    outcome = gpu_check.run(stage, 30)
    assert outcome.result == "out of time"
    assert outcome.seconds < 10
    assert alive.exists()
    alive.unlink()
    time.sleep(0.5)
    assert not alive.exists()


def test_a_stage_without_time_or_tool_is_skipped():
    assert gpu_check.run(python(""), 1).result == "skipped: no time was left"
    missing = Stage(name="a stage", command=("no-such-tool",), seconds=30)
    assert gpu_check.run(missing, 30).result == "skipped: no-such-tool is not on PATH"


def test_a_failed_stage_does_not_keep_the_next_from_running(tmp_path):
    path = tmp_path / "results.json"
    outcomes = gpu_check.check([python("raise SystemExit(1)"), python("")], path, 60)
    assert [outcome.result for outcome in outcomes] == ["failed: exit status 1", "passed"]
    written = json.loads(path.read_text())
    assert [stage["result"] for stage in written["stages"]] == [o.result for o in outcomes]
    assert written["machine"]["commit"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a CUDA device")
def test_without_a_gpu_it_says_so():
    script = Path(gpu_check.__file__).with_suffix(".sh")
    ran = subprocess.run(
        [script],
        env={"PYTHON": sys.executable, "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 1
    assert ran.stderr == "gpu_check needs a CUDA device and a build of torch that sees it\n"
