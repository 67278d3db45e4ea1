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
from vflow.ops import backend

PLANNED = {
    (stage.name, architecture): stage
    for architecture in ("90a-real", None)
    for stage in gpu_check.stages("some-gpu", architecture)
}


def python(code: str, seconds: int = 30, name: str = "a stage", **fields) -> Stage:
    return Stage(name=name, command=(sys.executable, "-c", code), seconds=seconds, **fields)


@pytest.mark.parametrize("key", PLANNED, ids=str)
def test_every_stage_names_what_there_is(key, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    command = PLANNED[key].command
    for word in (word.removeprefix("--ignore=") for word in command):
        if word.startswith(("tests/", "bench/", "scripts/")) and not word.endswith(".json"):
            assert (gpu_check.ROOT / word).exists()
    arguments = list(command)
    if "bench/ops.py" in command:
        options = tyro.cli(ops.Options, args=arguments[2:])
        assert {case.operation for case in ops.choose(options)} == set(options.only)
    elif "bench/throughput.py" in command:
        tyro.cli(throughput.Options, args=arguments[2:])
    elif "scripts/every_operation.py" in command:
        at = command.index("--backend")
        assert command[at + 1] in every_operation.DEVICES
        assert command[at + 2] == "--dtypes"
        assert set(command[at + 3 :]) <= set(every_operation.DTYPES)
    else:
        assert "pip" in command or "pytest" in command or command[1:] == ("-m", "vflow", "info")


def test_the_whole_takes_no_more_than_it_may(tmp_path, monkeypatch):
    assert gpu_check.SECONDS <= 8 * 60
    monkeypatch.setattr(gpu_check, "LEAST_SECONDS", 1)
    slow = [python("import time; time.sleep(60)", 60), python("", name="the next")]
    outcomes = gpu_check.check(slow, tmp_path / "results.json", 2, "cpu")
    assert [o.result for o in outcomes] == ["out of time", "skipped: no time was left"]


def test_a_stage_passes_or_fails_by_its_exit_status():
    assert gpu_check.run(python(""), 30).result == "passed"
    assert gpu_check.run(python("raise SystemExit(3)"), 30).result == "failed: exit status 3"
    seen = python("import os; assert os.environ['SEEN'] == 'yes'", environment={"SEEN": "yes"})
    assert gpu_check.run(seen, 30).result == "passed"


def test_a_stage_finds_what_is_here_and_what_the_environment_adds(monkeypatch, tmp_path):
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "only_there.py").touch()
    assert gpu_check.run(python("import only_there, bench.ops, tests.abi"), 300).result == "passed"


def test_a_stage_out_of_time_may_say_what_it_found(capfd):
    code = "import time\ntry: time.sleep(60)\nexcept KeyboardInterrupt: print('found so far')"
    assert gpu_check.run(python(code, 3), 30).result == "out of time"
    assert "found so far" in capfd.readouterr().out


def test_a_stage_that_will_not_end_is_ended_with_its_children(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_check, "PATIENCE_SECONDS", 0.2)
    alive = tmp_path / "alive"
    deaf = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
    touch = f"pathlib.Path({str(alive)!r}).touch()"
    child = f"{deaf}import time, pathlib\nwhile 1: {touch}; time.sleep(0.05)"
    code = f"{deaf}import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    outcome = gpu_check.run(python(code, 3), 30)
    assert outcome.result == "out of time"
    assert outcome.seconds < 15
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
    chosen = [python("raise SystemExit(1)", name="first"), python("", name="second")]
    outcomes = gpu_check.check(chosen, path, 60, "cpu")
    assert [outcome.result for outcome in outcomes] == ["failed: exit status 1", "passed"]
    written = json.loads(path.read_text())
    assert [stage["result"] for stage in written["stages"]] == [o.result for o in outcomes]
    assert written["machine"]["backends"]["concat_elu"] == backend.describe()["concat_elu"]


def test_a_later_run_replaces_what_it_runs_again(tmp_path):
    path = tmp_path / "results.json"
    gpu_check.check([python("1/0", name="first"), python("1/0", name="second")], path, 60, "cpu")
    gpu_check.check([python("", name="second")], path, 60, "cpu")
    results = {s["name"]: s["result"] for s in json.loads(path.read_text())["stages"]}
    assert results == {"first": "failed: exit status 1", "second": "passed"}


def test_stages_are_chosen_by_how_their_names_begin(monkeypatch, tmp_path):
    every = gpu_check.stages("some-gpu", "90a-real")
    monkeypatch.setattr(gpu_check, "LIBRARY", tmp_path / "library.so")
    names = [stage.name for stage in gpu_check.choose(every, ["racecheck"])]
    assert names == ["build", "racecheck, triton", "racecheck, cuda"]
    (tmp_path / "library.so").touch()
    assert [stage.name for stage in gpu_check.choose(every, ["racecheck"])] == names[1:]
    assert gpu_check.choose(every, [""]) == every
    with pytest.raises(
        ValueError, match=r"only must begin the name of a stage \(build, .* got nothing"
    ):
        gpu_check.choose(every, ["nothing"])


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
