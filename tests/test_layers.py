"""Who may import whom: the layers, enforced by walking every import of the package."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "vflow"
FLOOR = {"io", "runtime"}  # what anybody above stands on

# Layer -> the layers of ours that it may import, itself left out.
ALLOWED = {
    "runtime": set(),
    "io": {"runtime"},
    "kernels": set(),
    "ops": {"kernels", *FLOOR},
    "nets": {"ops", *FLOOR},
    "flows": {"ops", "nets", *FLOOR},
    "densities": {"flows", *FLOOR},
    "models": {"densities", "flows", "nets", "ops", *FLOOR},
    "data": FLOOR,
    "plots": FLOOR,
    "interop": {"models", "flows", "nets", *FLOOR},
    "codecs": {"data", *FLOOR},
}
# Everything else in the package is an application (train, evaluate, sample, ...): it may import any
# layer and other applications, but no command line, whose own files may import anything.
COMMANDS = {"cli", "__init__", "__main__"}
KERNEL_IMPORTS = {"torch", "triton", "__future__", "typing", "collections", "contextlib"}


def layer_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    """Dotted names of the modules that a file imports anywhere, in functions too."""
    package = ("vflow", *path.relative_to(PACKAGE).parts[:-1])
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join([*package[: len(package) - node.level + 1], *filter(None, [base])])
            found |= {base} | {f"{base}.{alias.name}" for alias in node.names}
    return found


FILES = sorted(
    path for path in PACKAGE.rglob("*.py") if "kernels" not in path.relative_to(PACKAGE).parts
) + sorted((PACKAGE / "kernels").glob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_layers(path):
    layer = layer_of(path)
    if layer in COMMANDS:
        return
    for name in imports(path):
        parts = name.split(".")
        if layer == "kernels":
            sibling = parts[:2] == ["vflow", "kernels"]
            assert sibling or parts[0] in KERNEL_IMPORTS, f"a kernel imports {name}"
        if (
            parts[0] == "vflow"
            and len(parts) > 1
            and parts[1] not in {layer, *(FLOOR if layer != "runtime" else ())}
        ):
            allowed = parts[1] in ALLOWED[layer] if layer in ALLOWED else parts[1] not in COMMANDS
            assert allowed, f"{layer} imports {name}"


def test_reference_imports_no_backend():
    """The oracle stands alone: nothing of registration, choice of backend or native code."""
    for path in (PACKAGE / "ops" / "reference").glob("*.py"):
        ours = {name for name in imports(path) if name.startswith("vflow")}
        assert all(name.startswith("vflow.ops.reference") for name in ours), path.name


def test_the_walk_sees_imports():
    assert "vflow.ops.backend" in imports(PACKAGE / "ops" / "library.py")
    assert len(FILES) > 15
