"""What `make` says of a Python or an environment that will not do."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from scripts import check_environment
from scripts.check_environment import problem

HERE = sys.version_info[:2]


@pytest.fixture
def environment(tmp_path):
    """An environment of this Python, by its path."""
    folder = tmp_path / "an environment"
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python").symlink_to(sys.executable)
    return str(folder)


def test_none_yet_or_of_the_same_python(tmp_path, environment):
    assert problem(str(tmp_path / "none"), same=True) is None
    assert problem(environment, same=True) is None


def test_of_another_python(environment):
    other = (3, 10) if HERE != (3, 10) else (3, 11)
    said = problem(environment, same=True, mine=other)
    assert f"is of Python 3.{HERE[1]}, and PYTHON is 3.{other[1]}: remove {environment}" in said
    assert problem(environment, same=False, mine=other) is None


def test_a_python_that_is_gone_or_fails(environment):
    python = Path(environment, "bin", "python")
    python.unlink()
    python.symlink_to("/nowhere/python")
    assert f"{environment}/bin/python does not run" in problem(environment, same=False)
    python.unlink()
    python.write_text("#!/bin/sh\nexit 3\n")
    python.chmod(0o755)
    assert "does not run" in problem(environment, same=False)


@pytest.mark.parametrize("mine", [(3, 9), (3, 14)])
def test_a_python_of_the_wrong_version(tmp_path, mine):
    said = problem(str(tmp_path / "none"), same=False, mine=mine)
    assert said == f"Python must be 3.10 to 3.13, got 3.{mine[1]}: name one by PYTHON"


def test_the_versions_are_the_projects():
    text = (Path(__file__).parents[1] / "pyproject.toml").read_text()
    least, below = re.search(r'requires-python = ">=3\.(\d+),<3\.(\d+)"', text).groups()
    assert (3, int(least)) == check_environment.LEAST
    assert (3, int(below)) == check_environment.BELOW
