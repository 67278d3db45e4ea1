"""Files that are whole or absent, and errors that are one line."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from vflow.runtime.console import RunStopped, one_line_errors
from vflow.runtime.files import atomic_path, read_json, write_json


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "value.json"
    write_json(path, {"a": 1})
    assert path.stat().st_mode & 0o777 == 0o666 & ~_umask()

    def fail() -> None:
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert read_json(path) == {"a": 1}
    assert os.listdir(path.parent) == ["value.json"]


def test_a_kill_leaves_no_half_file(tmp_path: Path) -> None:
    path = tmp_path / "value.txt"
    program = (
        "import os, sys\n"
        "from vflow.runtime.files import atomic_path\n"
        "with atomic_path(sys.argv[1]) as path:\n"
        "    path.write_text('half')\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", program, str(path)], check=False)
    assert not path.exists()


def test_json_has_no_nan(tmp_path: Path) -> None:
    value = {"a": math.nan, "b": [1.5, -math.inf, (math.inf, "x")], "c": None, "d": {"e": True}}
    write_json(tmp_path / "value.json", value)
    text = (tmp_path / "value.json").read_text()
    expected = {"a": None, "b": [1.5, None, [None, "x"]], "c": None, "d": {"e": True}}
    assert json.loads(text, parse_constant=lambda name: pytest.fail(name)) == expected


def test_json_that_does_not_parse_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(ValueError, match=r"bad\.json must be a JSON file"):
        read_json(tmp_path / "bad.json")


@pytest.mark.parametrize(
    "error", [ValueError("x must be 1,\ngot 2"), FileNotFoundError("gone"), RunStopped("stop")]
)
def test_user_errors_are_one_line(error: Exception, capsys, monkeypatch) -> None:
    monkeypatch.delenv("VFLOW_TRACEBACK", raising=False)

    @one_line_errors
    def command() -> None:
        raise error

    with pytest.raises(SystemExit) as stopped:
        command()
    assert stopped.value.code == 1
    line = capsys.readouterr().err
    assert line.startswith("vflow: error: ")
    assert line.count("\n") == 1


def test_defects_keep_their_traceback(monkeypatch) -> None:
    @one_line_errors
    def command(error: Exception) -> None:
        raise error

    with pytest.raises(TypeError):
        command(TypeError("a defect"))
    monkeypatch.setenv("VFLOW_TRACEBACK", "1")
    with pytest.raises(ValueError, match="shown"):
        command(ValueError("shown"))


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
