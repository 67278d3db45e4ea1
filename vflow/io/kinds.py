"""Kinds and their options: config dataclasses by name, to and from trees of JSON.

    {"kind": "mixlogistic", "components": 32, "squash": false}

A dataclass with a field that is itself a kind says so in the field's metadata:
`field(default=..., metadata={"kinds": COUPLINGS})`.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

T = TypeVar("T", bound=type)


class FieldError(ValueError):
    """A value in a tree that will not do.

    Args:
        where: What the tree is called.
        path: Where in it the value's object is: "augment.posterior".
        reason: What is wrong.
    """

    def __init__(self, where: str, path: str, reason: str) -> None:
        super().__init__(": ".join(filter(None, [where, path, reason])))
        self.path = path
        self.reason = reason


class Kinds:
    """The kinds of one thing.

    Args:
        what: What they are kinds of, for errors: "coupling".
    """

    def __init__(self, what: str) -> None:
        self.what = what
        self._classes: dict[str, type] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Decorate the dataclass of a kind's options."""

        def decorate(options: T) -> T:
            if name in self._classes:
                raise ValueError(f"{self.what} kind must be a new name, got {name!r} again")
            options.kind = name  # type: ignore[attr-defined]
            self._classes[name] = options
            return options

        return decorate

    @property
    def names(self) -> tuple[str, ...]:
        """Every name, in the order of registration."""
        return tuple(self._classes)

    def __getitem__(self, name: Any) -> type:
        if name not in self._classes:
            close = difflib.get_close_matches(str(name), self._classes, 1)
            hint = f" (did you mean {close[0]}?)" if close else ""
            raise ValueError(
                f"{self.what} kind must be one of {', '.join(self._classes)}, got {name!r}{hint}"
            )
        return self._classes[name]

    def require(self, name: str, value: Any) -> None:
        """Raise ValueError unless `value` is one of the kinds' options, named as a field."""
        if not isinstance(value, tuple(self._classes.values())):
            came = f"{value!r}" if isinstance(value, str | int | float) else type(value).__name__
            raise ValueError(
                f"{name} must be the options of a {self.what} kind "
                f"({', '.join(self._classes)}), got {came}"
            )

    def read(self, tree: Any, where: str, path: str) -> Any:
        """The options that a tree tells.

        Args:
            tree: {"kind": NAME, ...} with every field of that kind.
            where: What the whole tree is called in errors.
            path: Where in it this one is.

        Raises:
            FieldError: If it is no such tree, or a value is out of range.
        """
        if not isinstance(tree, Mapping) or "kind" not in tree:
            raise FieldError(where, path, f'must be an object with a "kind", got {tree!r}')
        fields = {name: value for name, value in tree.items() if name != "kind"}
        try:
            options = self[tree["kind"]]
        except ValueError as error:
            raise FieldError(where, path, str(error)) from error
        return read_fields(options, fields, where, path)


def read_fields(options: type, fields: Any, where: str, path: str) -> Any:
    """Make a config of its fields, refusing unknown and missing ones.

    A field that files were once saved without has in its metadata what it was "before".

    Raises:
        FieldError: Naming where, and what is wrong.
    """
    if not isinstance(fields, Mapping):
        raise FieldError(where, path, f"must be an object, got {fields!r}")
    known, found = set(), {}
    for field in dataclasses.fields(options):
        known.add(field.name)
        if field.name in fields:
            value, kinds = fields[field.name], field.metadata.get("kinds")
            if kinds is not None and value is not None:
                value = kinds.read(value, where, f"{path}.{field.name}")
            found[field.name] = value
        elif "before" in field.metadata:
            found[field.name] = field.metadata["before"]
    odd = sorted((known ^ found.keys()) | (fields.keys() - known))
    if odd:
        raise FieldError(
            where, path, f"must have just the fields of {options.__name__}: {', '.join(odd)} differ"
        )
    try:
        return options(**found)
    except (ValueError, TypeError) as error:
        raise FieldError(where, path, str(error)) from error


def leaves(tree: Any, path: str) -> dict[str, Any]:
    """The values in a tree by their paths: {"model.flow.filters": 96, ...}."""
    if not isinstance(tree, Mapping):
        return {path: tree}
    found = {}
    for name, value in tree.items():
        found.update(leaves(value, f"{path}.{name}"))
    return found


def to_tree(value: Any, lean: bool = False) -> Any:
    """A config as JSON has it: objects with their kinds, lists for tuples.

    Args:
        value: The config, or a value within one.
        lean: Leave out the fields that have the value which files without them mean.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        kind = getattr(value, "kind", None)
        tree: dict[str, Any] = {} if kind is None else {"kind": kind}
        for field in dataclasses.fields(value):
            item = getattr(value, field.name)
            if not (lean and "before" in field.metadata and field.metadata["before"] == item):
                tree[field.name] = to_tree(item, lean)
        return tree
    if isinstance(value, tuple | list):
        return [to_tree(item, lean) for item in value]
    return value
