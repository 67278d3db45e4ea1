"""Configs of models on disk, of whatever format, as trees of today's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vflow.io import format1

FORMAT = 2


def todays_tree(content: Any, where: str) -> Mapping[str, Any]:
    """The tree of format `FORMAT` that a config.json means.

    Args:
        content: The file's JSON.
        where: The file.

    Raises:
        ValueError: If it is no config, or of a newer format.
    """
    if not isinstance(content, Mapping):
        raise ValueError(f"{where} must be a JSON object, got {type(content).__name__}")
    if "format" not in content:
        if not isinstance(content.get("model"), str):
            raise ValueError(f'{where} must have a "format" or a "model", and has neither')
        fields = {name: value for name, value in content.items() if name != "model"}
        content = format1.tree_of(content["model"], fields, where)
    if content["format"] != FORMAT:
        raise ValueError(
            f"{where} must be of format {FORMAT} or older, got {content['format']!r}: a newer "
            "vflow reads it"
        )
    return content


def content_of_run(fixed: Mapping[str, Any]) -> Any:
    """The config.json that a training run's model would have, by what its checkpoints keep.

    Args:
        fixed: The facts; "model" is the config, which older ones hold as "model.FIELD"s.
    """
    if "model" in fixed:
        return fixed["model"]
    start = "model."
    flat = {k.removeprefix(start): v for k, v in fixed.items() if k.startswith(start)}
    return {"model": "VFlow" if "extra_dims" in flat else "FlowPlusPlus", **flat}
