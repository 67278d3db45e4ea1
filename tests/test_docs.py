"""The documentation: its code runs, its links lead somewhere, and every page is in the site."""

from __future__ import annotations

import json
import pkgutil
import re
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.rglob("*.md"), *DOCS.rglob("*.ipynb")])
PROSE = [*PAGES, *sorted(ROOT.glob("*.md"))]
EXAMPLES = [
    ROOT / "README.md",
    *(DOCS / f"{name}.md" for name in ("index", "concepts", "models")),
    *sorted((DOCS / "guides").glob("*.md")),
]

# What a page's code has much of, and how little is enough for it to run.
LESS = {
    "concepts": {":64]": ":4]", "(64, ": "(4, "},
    "index": {"(32, 3,": "(4, 3,", "range(10)": "range(2)", "samples=16": "samples=2"},
}


def _text(page: Path) -> str:
    """A page's prose, and of a notebook its text cells."""
    text = page.read_text("utf-8")
    if page.suffix == ".ipynb":
        cells = json.loads(text)["cells"]
        text = "\n\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
    taken = re.fullmatch(r'--8<-- "(.+)"\n', text)  # as scripts/site_pages.py has it
    return (ROOT / taken[1]).read_text("utf-8").replace("](docs/", "](") if taken else text


def _python(page: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", _text(page), re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("page", [p for p in EXAMPLES if _python(p)], ids=lambda p: p.stem)
def test_the_code_of_a_page_runs(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    names: dict[str, Any] = {}  # a page's blocks go on from one another
    for number, code in enumerate(_python(page), 1):
        for much, little in LESS.get(page.stem, {}).items():
            assert much in code
            code = code.replace(much, little)
        exec(compile(code, f"{page.name}, block {number}", "exec"), names)


@pytest.mark.parametrize("page", PROSE, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_relative_links_lead_to_files(page: Path):
    text = re.sub(r"^```.*?^```", "", _text(page), flags=re.DOTALL | re.MULTILINE)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not re.match(r"[a-z]+:", target):
            path, _, anchor = target.partition("#")
            file = page.parent / path if path else page
            assert file.exists(), f"{target} in {page.name}"
            if anchor and file.suffix in (".md", ".ipynb"):
                assert anchor in _anchors(file), f"{target} in {page.name}"


@pytest.mark.parametrize(("page", "least"), [("api", 40), ("commands", 14)])
def test_a_page_of_definitions_names_what_there_is(page: str, least: int):
    text = (DOCS / f"{page}.md").read_text()
    pattern = r"^::: ([\w.]+)(?:\n +options: \{members: \[(.*)\]\})?$"
    entries = re.findall(pattern, text, re.MULTILINE)
    assert len(entries) == text.count(":::") >= least
    for name, members in entries:
        found = pkgutil.resolve_name(name)
        assert found.__doc__, name
        for member in filter(None, members.split(", ")):
            assert getattr(found, member).__doc__, f"{name}.{member}"


def test_the_commands_are_those_that_there_are():
    from vflow.cli import COMMANDS

    rows = re.findall(
        r"^\| .*?`vflow (\w+)`.*? \| (.*) \|$", (DOCS / "commands.md").read_text(), re.M
    )
    told = {name: re.sub(r"\[(.*?)\]\(.*?\)", r"\1", text) for name, text in rows}
    assert told.keys() == COMMANDS.keys()
    for name, (_, description) in COMMANDS.items():
        assert told[name].startswith(description), name


def test_the_models_are_those_that_there_are():
    import vflow

    named = set(re.findall(r"`([\w-]+)`", (DOCS / "models.md").read_text()))
    assert named >= {*vflow.list_models(), *vflow.list_trained_models()}


def test_every_page_is_in_the_site():
    text = (ROOT / "mkdocs.yml").read_text()
    listed = re.findall(r": ([\w/-]+\.(?:md|ipynb))$", text, re.MULTILINE)
    assert sorted(listed) == sorted(p.relative_to(DOCS).as_posix() for p in PAGES)


def _anchors(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", _text(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
