"""What is printed: to a reader that leaves, in encodings that lack characters, to a full disk."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from vflow.runtime.console import one_line_errors
from vflow.runtime.streams import EXIT_CLOSED_PIPE


def test_a_reader_that_leaves() -> None:
    """In processes of their own: no complaint, and the exit code of a program ended by SIGPIPE."""
    script = f"{sys.executable} -m vflow models '*-mini' | head -1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", script],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.getcwd()},
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    lines = done.stdout.splitlines()
    assert lines[0].startswith("trained")
    assert lines[1:] in (["141"], ["0"])  # 0 where all was in the pipe before head left
    assert done.stderr == ""


def run_into(
    stream: io.TextIOWrapper, monkeypatch: pytest.MonkeyPatch, command: Callable[[], None]
) -> object:
    """Run a command with another standard output; its exit code."""
    monkeypatch.setattr(sys, "stdout", stream)
    try:
        one_line_errors(command)()
    except SystemExit as stop:
        return stop.code
    return 0


@pytest.mark.parametrize("lines", [1, 100_000], ids=["at-the-end", "on-the-way"])
def test_a_closed_pipe(
    lines: int, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    stream = os.fdopen(writer, "w")
    code = run_into(stream, monkeypatch, lambda: [print("line") for _ in range(lines)] and None)
    assert code == EXIT_CLOSED_PIPE == 141
    stream.close()  # what was left in the buffer has gone nowhere, without a complaint
    assert capfd.readouterr().err == ""


def test_a_closed_pipe_after_help(monkeypatch: pytest.MonkeyPatch) -> None:
    def helps() -> None:
        print("usage")
        raise SystemExit(0)

    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as stream:
        assert run_into(stream, monkeypatch, helps) == EXIT_CLOSED_PIPE


def test_no_output_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    one_line_errors(lambda: print("nobody reads it"))()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_a_full_disk(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    with open("/dev/full", "w") as stream:
        assert run_into(stream, monkeypatch, lambda: print("line")) == 1
    assert capfd.readouterr().err == "vflow: error: standard output: No space left on device\n"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_whatever_the_encoding(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    content = io.BytesIO()
    stream = io.TextIOWrapper(content, encoding=encoding, errors="strict")
    text = "3.1 ± 0.2 … ╭─╮ │ \u2013 \u00e9 \u4e2d \udcff"
    assert run_into(stream, monkeypatch, lambda: print(text)) == 0
    assert stream.errors == "strict"
    assert (
        content.getvalue().decode(encoding)
        == {
            "ascii": "3.1 +- 0.2 ... +-+ | - \\xe9 \\u4e2d \\udcff\n",
            "latin-1": "3.1 ± 0.2 ... +-+ | - \u00e9 \\u4e2d \\udcff\n",
            "utf-8": "3.1 ± 0.2 … ╭─╮ │ \u2013 \u00e9 \u4e2d \\udcff\n",
        }[encoding]
    )


def test_what_the_commands_print_has_an_ascii_of_its_own() -> None:
    """No character in the sources would come out by its number."""
    printable = set(
        "±─│╭╮╰╯┌┐└┘├┤┬┴┼…·\u00d7\u2010\u2011\u2012\u2013\u2014\u2018\u2019\u201c\u201d"
    )
    package = Path(__file__).parent.parent / "vflow"
    found = {
        character
        for path in package.rglob("*.py")
        if path.name != "streams.py"
        for character in re.findall(r"[^\x00-\x7f]", path.read_text(encoding="utf-8"))
    }
    assert found <= printable
