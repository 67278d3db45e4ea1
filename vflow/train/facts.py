"""What a run depends on at every step: it must stay the same, or be changed on purpose."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vflow.data import images_digest
from vflow.io.checkpoint import Checkpoint
from vflow.io.kinds import leaves
from vflow.models.tree import config_of_run

if TYPE_CHECKING:
    from vflow.models import ImageFlow
    from vflow.train.config import TrainConfig
    from vflow.train.inputs import Inputs

FIXED_FIELDS = ("preset", "batch_size", "optimizer", "precision", "flip", "seed")
CHANGEABLE = ("batch_size", "optimizer", "precision", "flip")
"""With dropout and the fields of `optim`, what `resume_with_changes` allows to differ; but the
optimizer not to Muon or from it, whose state is no other's."""
DIGEST, TEST_DIGEST = "training images", "test images"
COUNT = "number of training images"
INIT_FROM, WEIGHTS = "init_from", "initial weights"

Changes = dict[str, tuple[Any, Any]]
"""What differs: name -> (was, is)."""


def fixed_fields(config: TrainConfig) -> dict[str, Any]:
    """The flags a run must keep.

    Those of the model's shape are not among them: what counts is the model they lead to. Nor is the
    name of the data: what counts are the images.
    """
    fields = config.to_json()
    optim = {f"optim.{name}": value for name, value in fields["optim"].items()}
    return {**{name: fields[name] for name in FIXED_FIELDS}, **optim}


def model_facts(model: ImageFlow) -> dict[str, Any]:
    """The model that the flags came to."""
    return {"model": model.config.to_tree()}


def data_facts(
    config: TrainConfig, inputs: Inputs, checkpoint: Checkpoint | None
) -> dict[str, Any]:
    """The images, by their digests; the name they were asked for by, for who reads it.

    Test images that are not loaded this time remain those that the checkpoint knows.
    """
    facts = {"data": config.data, COUNT: len(inputs.train), DIGEST: images_digest(inputs.train)}
    if inputs.test is not None:
        facts[TEST_DIGEST] = images_digest(inputs.test)
    elif checkpoint is not None and TEST_DIGEST in checkpoint.state["fixed"]:
        facts[TEST_DIGEST] = checkpoint.state["fixed"][TEST_DIGEST]
    return facts


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> Changes:
    """What differs between the facts of a run and those it is to go on with.

    Args:
        before: Those in its checkpoint. Runs begun when a fact was not kept yet lack it.
        now: All, or some.
    """
    # As they were before they were kept.
    known = {"flip": False, WEIGHTS: None, "optim.fall": None, **before}
    found = {
        name: (known[name], value)
        for name, value in now.items()
        if name in known and name not in ("data", INIT_FROM) and known[name] != value
    }
    if DIGEST in now and DIGEST not in before:  # a run of an older version: by name and number
        was, is_now = before["data"], now["data"]
        if was.partition(":")[0] != is_now.partition(":")[0]:
            found["data"] = was, is_now
    return found


def require_same_run(checkpoint: Checkpoint | None, now: Mapping[str, Any], allow: bool) -> Changes:
    """What differs between a run and what it is to go on with, if it may differ.

    Args:
        checkpoint: The run's; None for a new one.
        now: Facts, as from the functions above.
        allow: Whether what is `CHANGEABLE` may differ.

    Raises:
        ValueError: If anything else differs; names each, with what it was and is.
    """
    if checkpoint is None:
        return {}
    before, now = (_leaves(facts, checkpoint.path) for facts in (checkpoint.state["fixed"], now))
    changes = differences(before, now)
    bad = {name: pair for name, pair in changes.items() if not (allow and _changeable(name, pair))}
    if bad:
        could = all(_changeable(name, pair) for name, pair in bad.items())
        hint = ", or --resume-with-changes" if could else ""
        said = "; ".join(_say(name, *pair, before, now) for name, pair in bad.items())
        run = checkpoint.path.parent.parent
        raise ValueError(f"cannot go on with {run}: {said}; use another --out{hint}")
    return changes


def history(checkpoint: Checkpoint | None, changes: Changes) -> list[dict[str, Any]]:
    """All changes of a run: {"step": after which, "changes": {name: {"was", "is"}}} for each time.

    Args:
        checkpoint: What it goes on from, if anything.
        changes: Those made now.
    """
    if checkpoint is None:
        return []
    now = {name: {"was": was, "is": value} for name, (was, value) in changes.items()}
    made = [{"step": checkpoint.step, "changes": now}] if now else []
    return [*checkpoint.state.get("changes", []), *made]


def describe(changes: Changes) -> str:
    """The changes, for the log and the card."""
    return ", ".join(f"{name} was {was} and is {now}" for name, (was, now) in changes.items())


def _changeable(name: str, was_and_is: tuple[Any, Any]) -> bool:
    if name.startswith("model."):
        return name.endswith(".dropout")
    if name == "optimizer":
        return "muon" not in was_and_is
    return name in CHANGEABLE or name.startswith("optim.")


def _leaves(facts: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The facts, with the model's config value by value, whatever format it is in."""
    found = {k: v for k, v in facts.items() if k != "model" and not k.startswith("model.")}
    if len(found) < len(facts):
        found.update(leaves(config_of_run(facts, str(path)).to_tree(), "model"))
    return found


def _say(name: str, was: Any, now: Any, before: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    if name in (DIGEST, TEST_DIGEST):
        return f"its {name} were those of {before['data']}, and those of {facts['data']} are others"
    if name == WEIGHTS:
        source = before.get(INIT_FROM)
        begun = f"with those of {source}" if source else "without any"
        return f"it was begun {begun}, and those of {facts[INIT_FROM]} are others"
    return describe({name: (was, now)})
