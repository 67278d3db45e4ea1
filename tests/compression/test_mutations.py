"""scripts/mutate_archives.py: it finds nothing, and would if there were something."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from tests.forks import run_fork

SCRIPT = Path(__file__).parents[2] / "scripts" / "mutate_archives.py"


def mutate(*arguments: str, before: str = "") -> subprocess.CompletedProcess[str]:
    """Run the script, after some Python of its own."""
    code = f"""
import runpy, sys
sys.path.insert(0, {str(SCRIPT.parents[1])!r})
import vflow
{before}
sys.argv = {[str(SCRIPT), *arguments]!r}
runpy.run_path({str(SCRIPT)!r}, run_name="__main__")
"""
    return run_fork(code)


def test_a_few_mutations():
    ran = mutate("--preset", "glow-tiny", "--count", "40")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert re.search(r"^ +0 failed$", ran.stdout, re.MULTILINE)
    assert "lost by name" in ran.stdout


NO_CHECKSUMS = """
import hashlib
class Digest:
    def __init__(self, data=b"", digest_size=16):
        self.size = digest_size
    def update(self, data):
        pass
    def digest(self):
        return bytes(self.size)
    def hexdigest(self):
        return self.digest().hex()
hashlib.blake2b = Digest
"""


def test_wrong_pictures_are_found_where_nothing_is_checked():
    ran = mutate("--preset", "glow-tiny", "--count", "60", before=NO_CHECKSUMS)
    assert ran.returncode == 1, ran.stdout + ran.stderr
    assert "is wrong, unsaid" in ran.stdout
