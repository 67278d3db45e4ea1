"""What stands beside a trained model's weights: its card, its curves and its samples."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import vflow
from vflow.models import ImageFlow
from vflow.models.pretrained import CARD_NAME
from vflow.plots import save_curves, save_image_grid
from vflow.report.card import Facts, card
from vflow.report.runs import Json, RunRecord
from vflow.runtime.files import atomic_path
from vflow.train.facts import COUNT

CURVES_NAME, SAMPLES_NAME = "curves.png", "samples.png"
SAMPLES = 64


def facts_of(
    run: RunRecord,
    model: ImageFlow,
    state: Json,
    evaluations: Sequence[Json] = (),
    rounded: bool = False,
    **said: Any,
) -> Facts:
    """What the card of a run's model tells.

    Args:
        run: The run, whose last step gave the model.
        model: The model.
        state: That of the checkpoint of the last step.
        evaluations: Those of `vflow evaluate` on these very weights; without any, the evaluation
            after the run's last step stands in for them, unless the model is `rounded`.
        rounded: Whether its parameters are no longer quite the run's.
        said: Further fields of `Facts`: name, data, path and note.
    """
    own = None if rounded else run.evaluation_at(run.step)
    return Facts(
        model=type(model).__name__,
        shape=tuple(model.data_shape),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        evaluations=list(evaluations) or ([own] if own else []),
        training_images=state["fixed"][COUNT],
        changes=state.get("changes", []),
        versions={"vflow": vflow.__version__, **state.get("versions", {})},
        commit=_commit(),
        **{"data": run.settings["data"], **said},
    )


def draw_pictures(folder: Path, run: RunRecord, model: ImageFlow, name: str) -> None:
    """Draw the curves of a run and samples of its model, as the card shows them."""
    samples = model.sample(SAMPLES, generator=torch.Generator(model.device).manual_seed(0))
    save_curves({name: run.metrics}, folder / CURVES_NAME)
    save_image_grid(samples, folder / SAMPLES_NAME)


def write_card(folder: Path, run: RunRecord, facts: Facts) -> None:
    """Write the card, in place of one that is there."""
    with atomic_path(folder / CARD_NAME) as path:
        path.write_text(card(run, facts), encoding="utf-8")


def _commit() -> str | None:
    """The library's commit, if it is run from a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short=12", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
