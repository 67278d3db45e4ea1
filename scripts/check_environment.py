"""Check what `make` is to work with: a Python that vflow runs on, and an environment made with it.

    python scripts/check_environment.py .venv [--same]

Says in one line what is wrong with them. With --same, the environment has to be of this Python.
"""

import argparse
import os
import subprocess
import sys

LEAST, BELOW = (3, 10), (3, 14)  # as pyproject.toml has it
TELL = "import sys; print(*sys.version_info[:2])"


def version_of(environment):
    """The version of Python in an environment; None if there is none, "broken" if it fails."""
    python = os.path.join(environment, "bin", "python")
    if not os.path.lexists(python):
        return None
    try:
        told = subprocess.check_output([python, "-c", TELL])
    except (OSError, subprocess.CalledProcessError):
        return "broken"
    return tuple(map(int, told.split()))


def problem(environment, same, mine=sys.version_info[:2]):
    """Say what is wrong, or None."""
    found = version_of(environment)
    if found == "broken":
        return f"{environment}/bin/python does not run: remove {environment}, or name another VENV"
    if same and found not in (None, mine):
        return (
            f"{environment} is of Python {found[0]}.{found[1]}, and PYTHON is {mine[0]}.{mine[1]}: "
            f"remove {environment}, or name another VENV"
        )
    major, minor = found or mine
    if LEAST <= (major, minor) < BELOW:
        return None
    last = BELOW[1] - 1
    return f"Python must be 3.{LEAST[1]} to 3.{last}, got {major}.{minor}: name one by PYTHON"


def main():
    """Check, and exit with code 1 if anything is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("environment", help="the folder of the environment, which need not exist")
    parser.add_argument("--same", action="store_true", help="it has to be of this Python")
    arguments = parser.parse_args()
    wrong = problem(arguments.environment, arguments.same)
    if wrong:
        sys.exit(f"vflow: error: {wrong}")


if __name__ == "__main__":
    main()
