"""The spin of OpenMP's threads: who sets it, when, and what is said of it."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from vflow.cli.about import describe_machine
from vflow.runtime import threads

OURS = (threads.VARIABLE, threads.WAIT_POLICY)
TELL = """
import vflow
from vflow.runtime.threads import describe_spin
print(os.environ.get("GOMP_SPINCOUNT"), describe_spin(), sep="|")
assert "torch" in sys.modules or not [name for name in sys.modules if name.startswith("torch")]
"""


def python(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: text for name, text in os.environ.items() if name not in OURS}
    return subprocess.run(
        [sys.executable, *arguments],
        env={**inherited, **environment},
        capture_output=True,
        text=True,
        check=True,
    )


def told(before: str = "", **environment: str) -> list[str]:
    """GOMP_SPINCOUNT after `import vflow`, and what is said of it; no torch is imported."""
    code = f"import os, sys, types\n{before}\n{TELL}"
    return python("-c", code, **environment).stdout.strip().split("|")


def test_import_sets_it_and_imports_no_torch():
    count, said = told()
    assert count == threads.SPIN_COUNT
    assert said.startswith("GOMP_SPINCOUNT=2000, set by vflow")
    assert "too late" not in said


@pytest.mark.parametrize(
    ("name", "value", "count"),
    [("GOMP_SPINCOUNT", "7", "7"), ("OMP_WAIT_POLICY", "active", "None")],
)
def test_the_users_own_setting_wins(name, value, count):
    found, said = told(**{name: value})
    assert found == count
    assert said.startswith(f"{name}={value}, set in the environment")


def test_an_empty_setting_is_none():
    assert told(GOMP_SPINCOUNT="")[0] == threads.SPIN_COUNT


def test_after_torch_it_is_too_late_but_for_children():
    count, said = told('sys.modules["torch"] = types.ModuleType("torch")')
    assert count == threads.SPIN_COUNT
    assert "set by vflow too late for this process, torch having been imported before" in said


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="torch brings libgomp on Linux")
def test_libgomp_reads_it():
    """In a command, which imports vflow before torch; libgomp itself tells what it goes by."""
    done = python("-m", "vflow.train", "--help", OMP_DISPLAY_ENV="VERBOSE")
    assert re.findall(r"GOMP_SPINCOUNT = '(\d+)'", done.stderr) == [threads.SPIN_COUNT]


def test_other_runtimes_do_not_heed_it(tmp_path, monkeypatch):
    maps = tmp_path / "maps"
    monkeypatch.setattr(threads, "_MAPS", maps)
    monkeypatch.setattr(threads, "_set_by", "GOMP_SPINCOUNT=2000, set by vflow")

    def say(*paths: str) -> str:
        lines = [f"7f00-7f01 r-xp 00000000 00:1f 7  {path}\n" for path in paths]
        maps.write_text("".join(lines))
        return threads.describe_spin()

    assert say("/usr/lib/libc.so.6").endswith("set by vflow; no OpenMP runtime is loaded")
    assert say("/a b/torch/lib/libgomp.so.1") == "libgomp; GOMP_SPINCOUNT=2000, set by vflow"
    assert say("/x/libgomp-a34b3233.so.1.0.0", "/x/libgomp.so.1").startswith("libgomp; ")
    assert say("/conda/libiomp5.so").endswith(", of no effect on libiomp5")
    assert say("/conda/libomp.so", "/conda/libgomp.so.1").startswith("libgomp, libomp; ")


def test_info_tells_it():
    assert f"  OpenMP: {threads.describe_spin()}\n" in describe_machine()


def test_the_usage_is_told_without_torch():
    code = """
import contextlib, sys
from vflow.cli import main
for word in ("--help", "--version"):
    with contextlib.suppress(SystemExit):
        main([word])
assert "torch" not in sys.modules
"""
    said = python("-c", code).stdout
    assert said.startswith("usage: vflow COMMAND")


def test_names_are_found_when_asked_for():
    code = """
import vflow
assert vflow.interop.load_tf_variables
assert {"create_model", "VFlow"} <= set(dir(vflow))
assert vflow.VFlow is vflow.models.VFlow
assert not hasattr(vflow, "of_no_such_name") and not hasattr(vflow, "a.b")
"""
    python("-c", code)
