"""`vflow publish`: a trained model with its card, in a folder or on the Hugging Face Hub."""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch

from vflow.evaluate.evaluation import model_digest
from vflow.io.checkpoint import newest_checkpoint
from vflow.models import ImageFlow
from vflow.models.loading import find_model, load_image_model
from vflow.models.pretrained import CARD_NAME
from vflow.plots import save_curves, save_image_grid
from vflow.report.card import Facts, card
from vflow.report.runs import RunRecord, read_run
from vflow.runtime.extras import require, tyro
from vflow.runtime.files import atomic_path, write_json
from vflow.train.facts import COUNT

SAMPLES = 64
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
    evaluations = _evaluations(run, model, config)
    facts = Facts(
        name=config.to,
        data=config.data or run.settings["data"],
        note=config.note,
        model=type(model).__name__,
        shape=tuple(model.data_shape),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        evaluations=list(evaluations.values()),
        **_of_checkpoint(run),
        commit=_commit(),
    )
    samples = model.sample(SAMPLES, generator=torch.Generator().manual_seed(0))
    with tempfile.TemporaryDirectory() as made:  # all that can fail, before anything is replaced
        save_curves({facts.name: run.metrics}, Path(made) / "curves.png")
        save_image_grid(samples, Path(made) / "samples.png")
        model.save_pretrained(folder)
        for name in ("curves.png", "samples.png"):
            with atomic_path(folder / name) as path:
                path.write_bytes((Path(made) / name).read_bytes())
    for old in folder.glob("evaluation-*.json"):
        old.unlink()
    for name, found in evaluations.items():
        write_json(folder / name, found)
    with atomic_path(folder / CARD_NAME) as path:
        path.write_text(card(run, facts), encoding="utf-8")
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


def _of_checkpoint(run: RunRecord) -> dict[str, Any]:
    """What the newest checkpoint knows of the training."""
    checkpoint = newest_checkpoint(run.folder / "checkpoints")
    if checkpoint is None:
        raise FileNotFoundError(f"{run.folder} must hold a checkpoint, but there is none")
    state = checkpoint.state
    return {"training_images": state["fixed"][COUNT], "changes": state.get("changes", [])}


def _commit() -> str | None:
    """The library's commit, if it is run from a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short=12", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


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
