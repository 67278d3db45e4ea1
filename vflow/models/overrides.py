"""One flat name for each thing that can be changed: `create_model("vflow-tiny", filters=16)`.

Whatever is a field somewhere in a config's tree has a name here: `filters` is that of p, q and r,
`blocks` is p's, `posterior_blocks` q's, `dequantizer_blocks` r's; `flow.filters`, a path, is that
of p alone.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import Any

from vflow.flows import COUPLINGS
from vflow.io.fields import plain, require_bool, require_image_size, require_int
from vflow.io.kinds import FieldError, Kinds, to_tree
from vflow.models.builders import DEQUANTIZERS, POSTERIORS

FLOW, POSTERIOR, DEQUANTIZER = ("flow",), ("augment", "posterior"), ("dequantize",)
EVERYWHERE = (
    *("filters", "heads", "dropout", "weight_std", "weight_norm", "final_elu"),
    *("hidden", "layers", "negative_slope"),
)
"""Fields whose flat name is that of p, q and r together; those of a coupling are too."""
Tree = dict[str, Any]
Path = tuple[Any, ...]


def override(tree: Tree, changes: Mapping[str, Any], name: str) -> tuple[Tree, dict[Path, str]]:
    """A tree with some values changed.

    Args:
        tree: A config's.
        changes: Values by flat name or by path.
        name: What the config is called in errors.

    Returns:
        The new tree, and the flat name by which each place was reached, for errors.

    Raises:
        ValueError: If there is no such name, or the config has nothing of that name.
    """
    tree = to_tree_copy(tree)
    reached: dict[Path, str] = {}
    # Kinds first: the other names may be fields of the new kind.
    first = ("extra_dims", "posterior", "dequantizer", "coupling")
    for key in sorted(changes, key=lambda key: first.index(key) if key in first else len(first)):
        for path in _set(tree, key, plain(changes[key]), name):
            reached[path] = key
    return tree, reached


def to_tree_copy(value: Any) -> Any:
    """A copy that shares nothing, with lists for tuples and trees for options."""
    if isinstance(value, Mapping):
        return {key: to_tree_copy(item) for key, item in value.items()}
    return to_tree(value)


def flat_names(tree: Tree) -> list[str]:
    """Every flat name of a config."""
    names = ["in_channels", "image_size"] if tree["dequantize"] else ["dims"]
    names += [key for key in tree["flow"] if key not in ("kind", "coupling")]
    coupling = _node(tree, (*FLOW, "coupling"))
    names += ["coupling", *[key for key in coupling if key != "kind"]] if coupling else []
    names += ["extra_dims"]
    for prefix, path in (("posterior", POSTERIOR), ("dequantizer", DEQUANTIZER)):
        node = _node(tree, path)
        if node is not None:
            names.append(prefix)
            names += [f"{prefix}_{key}" for key in node if key not in ("kind", *EVERYWHERE)]
    return names


def read_flat(config: Any, tree: Tree, name: str) -> Any:
    """The value that a flat name stands for.

    Args:
        config: The config, whose own value it is.
        tree: Its tree.
        name: The name.

    Raises:
        KeyError: If the config has nothing of that name.
    """
    if name in _READ:
        return _READ[name](tree)
    path = next(_places(tree, name), None)
    if path is None:
        raise KeyError(name)
    value = config
    for key in path:
        value = getattr(value, key)
    return value


def _set(tree: Tree, key: str, value: Any, name: str) -> list[Path]:
    """Set the value of a flat name or path; return the places."""
    if key in ("image_size", "in_channels", "dims"):
        _set_shape(tree, key, value, name)
        return [("data", "shape")]
    if key == "extra_dims":
        require_int("extra_dims", value, 1)
        if tree["augment"] is None:
            tree["augment"] = {"channels": value, "posterior": _default_posterior(tree)}
        tree["augment"]["channels"] = value
        return [("augment", "channels")]
    if key in ("posterior", "dequantizer"):
        path, kinds = (POSTERIOR, POSTERIORS) if key == "posterior" else (DEQUANTIZER, DEQUANTIZERS)
        if _node(tree, path) is None:
            raise _left_out(key, name, tree)
        _put(tree, path, _kind_tree(kinds, value, tree))
        return [path]
    if key == "coupling":
        return _set_coupling(tree, value, name)
    if key == "shared_context":
        require_bool("shared_context", value)
        key, value = "posterior_context", "shared" if value else "own"
    if key in ("full_stages", "half_stages"):
        index = 0 if key == "full_stages" else 1
        scales = tree["flow"].get("scales", [])
        if len(scales) != 2:
            raise _left_out(key, name, tree)
        scales[index] = to_tree_copy(value)
        return [(*FLOW, "scales")]
    places = list(_places(tree, key))
    if not places:
        raise _left_out(key, name, tree)
    for path in places:
        _put(tree, path, to_tree_copy(value))
    return places


def _places(tree: Tree, key: str) -> Iterator[Path]:
    """Where a flat name's or a path's values are, p's first."""
    if "." in key:
        path = tuple(key.split("."))
        if _node(tree, path[:-1]) is not None and path[-1] in _get(tree, path[:-1]):
            yield path
        return
    for prefix, path in (("", FLOW), ("posterior_", POSTERIOR), ("dequantizer_", DEQUANTIZER)):
        node = _node(tree, path)
        if node is None:
            continue
        coupling = node.get("coupling") or {}
        bare = key.removeprefix(prefix)
        own = path == FLOW or (prefix and key.startswith(prefix))
        shared = key in EVERYWHERE or (path == DEQUANTIZER and key == "attention")
        if key in node and key != "kind" and (path == FLOW or shared):
            yield (*path, key)
        elif own and bare in node and bare != "kind" and bare != key:
            yield (*path, bare)
        elif key in coupling and key != "kind":
            yield (*path, "coupling", key)


def _set_shape(tree: Tree, key: str, value: Any, name: str) -> None:
    shape = tree["data"]["shape"]
    if (key == "dims") != (len(shape) == 1):
        raise _left_out(key, name, tree)
    if key == "image_size":
        size = (value, value) if isinstance(value, int) and not isinstance(value, bool) else value
        size = tuple(size) if isinstance(size, list) else size
        require_image_size(size)
        shape[1:] = size
    else:
        require_int(key, value, 1)
        shape[0] = value


def _set_coupling(tree: Tree, value: Any, name: str) -> list[Path]:
    found = []
    for path in (FLOW, POSTERIOR, DEQUANTIZER):
        node = _node(tree, path)
        if node and "coupling" in node:
            node["coupling"] = _kind_tree(COUPLINGS, value, tree, node["coupling"])
            found.append((*path, "coupling"))
    if not found:
        raise _left_out("coupling", name, tree)
    return found


def _kind_tree(kinds: Kinds, value: Any, tree: Tree, before: Tree | None = None) -> Tree:
    """The tree of a kind named, with the values of p's fields of the same names, or given."""
    if not isinstance(value, str):
        return to_tree_copy(value)
    if before is not None and before["kind"] == value:
        return before
    made: Tree = to_tree(kinds[value]())
    for key in (*EVERYWHERE, "attention", "conv1x1", "coupling"):
        if key in made and key in tree["flow"]:
            made[key] = to_tree_copy(tree["flow"][key])
    return made


def _default_posterior(tree: Tree) -> Tree:
    kind = "flow" if tree["dequantize"] else "vector-glow"
    return _kind_tree(POSTERIORS, kind, tree)


def _left_out(key: str, name: str, tree: Tree) -> ValueError:
    names = flat_names(tree)
    close = difflib.get_close_matches(key, names, 1)
    if key in KNOWN:
        return ValueError(f"override {key} must be left out for {name}, which has none")
    hint = f" (did you mean {close[0]}?)" if close else ""
    return ValueError(f"override must be one of {', '.join(names)}, got {key!r}{hint}")


def explain(error: FieldError, reached: Mapping[Path, str]) -> ValueError:
    """An error of a tree's field in the words of the flat name by which it was reached."""
    reason = error.reason
    for path, key in reached.items():
        field = str(path[-1])
        if reason.startswith(f"{field} ") and error.path == ".".join(map(str, path[:-1])):
            return ValueError(key.rpartition(".")[2] + reason.removeprefix(field))
    return ValueError(reason)


def _node(tree: Tree, path: Path) -> Any:
    value: Any = tree
    for key in path:
        if not isinstance(value, Mapping) or key not in value:
            return None
        value = value[key]
    return value


def _get(tree: Tree, path: Path) -> Any:
    value: Any = tree
    for key in path:
        value = value[key]
    return value


def _put(tree: Tree, path: Path, value: Any) -> None:
    _get(tree, path[:-1])[path[-1]] = value


def _stages(tree: Tree, index: int) -> Any:
    scales = tree["flow"]["scales"]
    if len(scales) != 2:
        raise KeyError("stages")
    return tuple(map(tuple, scales[index]))


_READ: dict[str, Any] = {
    "in_channels": lambda tree: tree["data"]["shape"][0],
    "image_size": lambda tree: tuple(tree["data"]["shape"][1:]),
    "dims": lambda tree: tree["data"]["shape"][0],
    "extra_dims": lambda tree: _get(tree, ("augment", "channels")),
    "posterior": lambda tree: _get(tree, (*POSTERIOR, "kind")),
    "dequantizer": lambda tree: _get(tree, (*DEQUANTIZER, "kind")),
    "shared_context": lambda tree: _node(tree, (*POSTERIOR, "context")) == "shared",
    "full_stages": lambda tree: _stages(tree, 0),
    "half_stages": lambda tree: _stages(tree, 1),
    "posterior_steps": lambda tree: _get(tree, POSTERIOR).get("steps", 0),
}
KNOWN = (
    *_READ,
    *EVERYWHERE,
    "blocks",
    "components",
    "squash",
    "attention",
    "conv1x1",
    "coupling",
    "scales",
    "affine_blocks",
    "posterior_blocks",
    "posterior_attention",
    "posterior_context",
    "dequantizer_blocks",
    "dequantizer_steps",
    "steps",
    "coefficient",
)
"""Names that some config has: where another has none, that is what is said."""
