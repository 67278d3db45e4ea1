"""A hook of mkdocs: what is a page of the site without being markdown below docs/.

Notebooks become pages with the outputs they hold. A page that is one line, `--8<-- "FILE"`, becomes
that file of the repository, whose links into docs/ then lead to pages.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files


class Notebook(File):
    """A notebook, which mkdocs would copy as it is, taken for a page."""

    def is_documentation_page(self) -> bool:
        """It is one."""
        return True


def on_files(files: Files, config: Any) -> Files:
    """Take every notebook for a page."""
    for file in [file for file in files if file.src_uri.endswith(".ipynb")]:
        files.remove(file)
        files.append(
            Notebook(file.src_uri, config.docs_dir, config.site_dir, config.use_directory_urls)
        )
    return files


def on_page_read_source(page: Any, config: Any) -> str | None:
    """Give a notebook or a file of the repository as markdown, None for any other page."""
    text = page.file.content_string
    if isinstance(page.file, Notebook):
        return markdown(json.loads(text))
    taken = re.fullmatch(r'--8<-- "(.+)"\n', text)
    if taken is None:
        return None
    file = Path(config.config_file_path).parent / taken[1]
    return file.read_text("utf-8").replace("](docs/", "](")


def markdown(notebook: dict[str, Any]) -> str:
    """Write a notebook as markdown: code in fences, pictures inline.

    Raises:
        ValueError: If an output is of a kind that the site does not show.
    """
    parts = []
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        shell = re.match(r"%%(?:sh|bash)\n", source)
        parts.append(_fenced("sh" if shell else "python", source[shell.end() if shell else 0 :]))
        parts += [_output(output) for output in cell["outputs"]]
    return "\n\n".join(parts) + "\n"


def _output(output: dict[str, Any]) -> str:
    if output["output_type"] == "stream":
        return _fenced("text", "".join(output["text"]))
    data = output.get("data", {})
    if "image/png" in data:
        png = "".join(data["image/png"]).replace("\n", "")
        return f'<img alt="what the code above draws" src="data:image/png;base64,{png}">'
    if "text/plain" in data:
        return _fenced("text", "".join(data["text/plain"]))
    raise ValueError(f"a notebook's output must be text or a PNG, got {output['output_type']}")


def _fenced(language: str, text: str) -> str:
    return f"````{language}\n{text.rstrip()}\n````"
