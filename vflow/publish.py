"""`vflow publish`: a trained model with its card, in a folder or on the Hugging Face Hub."""

from __future__ import annotations

import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch

from vflow.evaluate.evaluation import model_digest
from vflow.io.checkpoint import newest_checkpoint
from vflow.io.weights import round_tensors
from vflow.models import ImageFlow
from vflow.models.loading import find_model, load_image_model
from vflow.report.model_folder import (
    CURVES_NAME,
    SAMPLES_NAME,
    draw_pictures,
    facts_of,
    write_card,
)
from vflow.report.runs import RunRecord, read_run
from vflow.runtime.extras import require, tyro
from vflow.runtime.files import atomic_path, write_json

NAME = re.compile(r"(?:[A-Za-z0-9][\w.-]*/)?[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True, kw_only=True)
class PublishConfig:
    """Write a training run's model with card, curves, samples and evaluations; upload it if asked.

    Evaluations are those that `vflow evaluate RUN` left in the run's folder for these weights.
    """

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """The training run's folder. Its newest parameters are taken, as by `vflow.load_model`."""
    to: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")]
    """What the model is called: a name, or OWNER/NAME on the Hub."""
    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """The folder to write; by default the last part of NAME here."""
    data: str | None = None
    """What the training data are called; by default as the run has them."""
    note: str | None = None
    """What a reader should know of the data or the figures, for the card."""
    half: bool = False
    """Write the parameters as float16, in half the size. Evaluations are then those of the rounded
    model: `vflow evaluate FOLDER --out RUN/NAME.json` measures it once it is written, and the same
    command again takes the figures up."""
    upload: bool = False
    """Upload the folder to the Hub, as OWNER/NAME, after it was written."""
    private: bool = False
    """Make the repository on the Hub a private one, where it is made."""

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ValueError: Naming the field, what it must be and what it is.
        """
        if not NAME.fullmatch(self.to):
            raise ValueError(f"NAME must be a name or OWNER/NAME, got {self.to!r}")
        if self.upload and "/" not in self.to:
            raise ValueError(f"NAME must be OWNER/NAME to be uploaded, got {self.to!r}")

    @property
    def folder(self) -> Path:
        """Where the files go."""
        return Path(self.to.rpartition("/")[2]) if self.out is None else Path(self.out)


def publish(config: PublishConfig) -> str:
    """Write the folder, and upload it if asked.

    A folder that holds something else than a model is refused; one that holds a model is written
    over, each file whole or not at all.

    Args:
        config: What, and where to.

    Returns:
        Where it is: the folder, or the address of the commit on the Hub.

    Raises:
        FileNotFoundError: If the run is none, or has no model yet.
        FileExistsError: If the folder holds something else.
        ValueError: If a file is damaged, or it is no image model.
        OSError: If something cannot be written, or the Hub does not take it.
        MissingExtra: If matplotlib is not installed.
    """
    require("matplotlib", "vflow publish")
    folder, run = config.folder, read_run(config.run)
    if folder.exists() and not (folder / "config.json").is_file() and any(folder.iterdir()):
        raise FileExistsError(f"out must be a model's folder or a new one, but {folder} is neither")
    source = find_model(config.run)
    model = load_image_model(source, say=True)
    storage = torch.float16 if config.half else None
    if storage is not None:
        model.load_state_dict(round_tensors(model.state_dict(), storage))
    evaluations = _evaluations(run, model, config)
    said = {"name": config.to, "path": config.to, "note": config.note}
    if config.data is not None:
        said["data"] = config.data
    state, found = _checkpoint_state(run), list(evaluations.values())
    facts = facts_of(run, model, state, found, rounded=config.half, **said)
    with tempfile.TemporaryDirectory() as made:  # all that can fail, before anything is replaced
        draw_pictures(Path(made), run, model, config.to)
        model.save_pretrained(folder, storage=storage)
        for name in (CURVES_NAME, SAMPLES_NAME):
            with atomic_path(folder / name) as path:
                path.write_bytes((Path(made) / name).read_bytes())
    for old in folder.glob("evaluation-*.json"):
        old.unlink()
    for name, found in evaluations.items():
        write_json(folder / name, found)
    write_card(folder, run, facts)
    return _upload(config) if config.upload else str(folder)


def _evaluations(run: RunRecord, model: ImageFlow, config: PublishConfig) -> dict[str, Any]:
    """Those of these weights, by the name of the file, without the places where things lay."""
    digest, found = model_digest(model), {}
    for result in sorted(run.evaluations, key=lambda result: (result["samples"], result["images"])):
        if result.get("digests", {}).get("model") != digest:
            continue
        name = f"evaluation-{result['split']}-{result['images']}-{result['samples']}.json"
        data = config.data or result["data"]
        found[name] = {**result, "model": config.to, "weights": config.to, "data": data}
    return found


def _checkpoint_state(run: RunRecord) -> dict[str, Any]:
    """What the newest checkpoint knows of the training."""
    checkpoint = newest_checkpoint(run.folder / "checkpoints")
    if checkpoint is None:
        raise FileNotFoundError(f"{run.folder} must hold a checkpoint, but there is none")
    return checkpoint.state


def _upload(config: PublishConfig) -> str:
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        api.create_repo(config.to, private=config.private, exist_ok=True)
        done = api.upload_folder(repo_id=config.to, folder_path=config.folder)
    # What a refusal or a lost connection raises differs between versions of the Hub's client.
    except Exception as error:
        raise OSError(
            f"{config.folder} is written, but the Hub did not take {config.to}: "
            f"{' '.join(str(error).split())}"
        ) from error
    return str(done.commit_url)
