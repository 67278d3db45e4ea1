"""The documentation: its code runs, its links lead somewhere, and every page is in the site."""

from __future__ import annotations

import pkgutil
import re
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").rglob("*.md"))
PROSE = [*PAGES, *sorted(ROOT.glob("*.md"))]
EXAMPLES = [
    ROOT / "README.md",
    ROOT / "docs" / "index.md",
    *sorted((ROOT / "docs" / "guides").glob("*.md")),
]


def _python(page: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", page.read_text("utf-8"), re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("page", [p for p in EXAMPLES if _python(p)], ids=lambda p: p.stem)
def test_the_code_of_a_page_runs(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    names: dict[str, Any] = {}  # a page's blocks go on from one another
    for number, code in enumerate(_python(page), 1):
        exec(compile(code, f"{page.name}, block {number}", "exec"), names)


@pytest.mark.parametrize("page", PROSE, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_relative_links_lead_to_files(page: Path):
    text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not re.match(r"[a-z]+:", target):
            path, _, anchor = target.partition("#")
            file = page.parent / path if path else page
            assert file.exists(), f"{target} in {page.name}"
            if anchor and file.suffix == ".md":
                assert anchor in _anchors(file), f"{target} in {page.name}"


def test_the_api_page_names_what_there_is():
    text = (ROOT / "docs" / "api.md").read_text()
    pattern = r"^::: ([\w.]+)(?:\n +options: \{members: \[(.*)\]\})?$"
    entries = re.findall(pattern, text, re.MULTILINE)
    assert len(entries) == text.count(":::") > 40
    for name, members in entries:
        found = pkgutil.resolve_name(name)
        assert found.__doc__, name
        for member in filter(None, members.split(", ")):
            assert getattr(found, member).__doc__, f"{name}.{member}"


def test_every_page_is_in_the_site():
    listed = re.findall(r": ([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    assert sorted(listed) == [p.relative_to(ROOT / "docs").as_posix() for p in PAGES]


def _anchors(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
