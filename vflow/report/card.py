"""The card of a trained model: what it is, what it reaches, and how it was made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vflow.io.evaluations import bound_of, with_stderr
from vflow.report.command import train_command
from vflow.report.runs import RunRecord
from vflow.train.facts import describe

Json = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a card tells beside the run's own record."""

    name: str
    """What the model is called."""
    path: str
    """What `vflow.load_model` is given."""
    data: str
    """What it was trained on, for a reader."""
    model: str
    """Its class."""
    shape: tuple[int, ...]
    """Of an image, channels first."""
    parameters: int
    training_images: int
    evaluations: Sequence[Json]
    """As in files of `vflow evaluate`, on these very weights."""
    changes: Sequence[Json] = ()
    """What `--resume-with-changes` changed along the way."""
    note: str | None = None
    """What a reader should know of the data or the figures."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Of vflow as it writes the card, and of what trained the last steps."""
    commit: str | None = None
    """The library's, where it was known."""


def card(run: RunRecord, facts: Facts) -> str:
    """Markdown with the Hub's metadata; it shows curves.png and samples.png beside it."""
    size = "x".join(map(str, facts.shape))
    return f"""---
library_name: vflow
license: apache-2.0
tags:
- normalizing-flow
- unconditional-image-generation
---

# {facts.name}

A {facts.model} of {facts.parameters:,} parameters for {size} images, trained on {facts.data}.

```python
import vflow

model = vflow.load_model("{facts.path}")
model.sample(64)  # uint8 [64, {", ".join(map(str, facts.shape))}]
```

## What it reaches

{_table(facts.evaluations)}

Bits/dim, lower is better, with the standard error over the images. "Bound" is the evidence lower
bound of one draw of noise, "importance sampling" the tighter one of many draws an image.
{_paragraph(facts.note)}
![bits/dim against training steps](curves.png)

![samples](samples.png)

## How it was made

{_recipe(run, facts)}

## Before you use it

A likelihood says how well a model codes an image, and not whether the image belongs to the data:
smooth images of another kind can well be the likelier ones. `vflow score` has scores that correct
for that.
"""


def _table(evaluations: Sequence[Json]) -> str:
    if not evaluations:
        return "It has not been evaluated on these weights (`vflow evaluate`)."
    rows = ["| data | images | samples | bound | importance sampling |", "|---|---|---|---|---|"]
    for found in evaluations:
        bound, bits = bound_of(found), with_stderr(found["bits_per_dim"])
        rows.append(
            f"| {found['data']}, {found['split']} | {found['images']:,} | {found['samples']:,} "
            f"| {bound} | {bits if found['samples'] > 1 else '-'} |"
        )
    digests = sorted({found["digests"]["images"] for found in evaluations if "digests" in found})
    return "\n".join([*rows, "", *(f"Images by their digest: `{digest}`." for digest in digests)])


def _versions(facts: Facts) -> str:
    versions = dict(facts.versions)
    vflow = " ".join(["vflow", *filter(None, [versions.pop("vflow", None)])])
    commit = "" if facts.commit is None else f" at commit {facts.commit}"
    names = {"torch": "PyTorch", "python": "Python"}
    others = " and ".join(f"{names.get(name, name)} {text}" for name, text in versions.items())
    return f"Written by {vflow}{commit}" + (f"; trained with {others}." if others else ".")


def _paragraph(note: str | None) -> str:
    return "" if note is None else f"\n{note}\n"


def _recipe(run: RunRecord, facts: Facts) -> str:
    settings = run.settings
    images = run.step * int(settings["batch_size"])
    lines = [
        f"{run.step:,} steps of {settings['batch_size']} images, which is "
        f"{images / facts.training_images:.2f} epochs of {facts.training_images:,} images, in "
        f"{run.hours:.2f} hours at {run.images_per_second:.0f} images/s (median).",
    ]
    if settings.get("init_from"):
        lines.append("It began with the weights of an earlier run.")
    for change in facts.changes:
        changes = {name: (v["was"], v["is"]) for name, v in change["changes"].items()}
        lines.append(f"From step {change['step']} on: {describe(changes)}.")
    lines.append(_versions(facts))
    return "\n".join([*lines, "", "```sh", train_command(run.config), "```"])
