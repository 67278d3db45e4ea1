"""From any path of a model to the model: its folder, a training run's, a checkpoint, the Hub."""

from __future__ import annotations

import hashlib
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from vflow.io.checkpoint import STATE_NAME, list_steps, newest_checkpoint, open_checkpoint
from vflow.io.saved_files import (
    CONFIG_NAME,
    PICKLE_SUFFIXES,
    RULE,
    WEIGHTS_NAME,
    HubOptions,
    require_no_file,
)
from vflow.models.image_flow import ImageFlow
from vflow.models.pretrained import choose_device, load_saved, open_saved
from vflow.models.tree import config_of_run
from vflow.runtime.files import read_json

if TYPE_CHECKING:
    from typing_extensions import Unpack

AVERAGED, TRAINED = "ema.safetensors", WEIGHTS_NAME
CHECKPOINTS, MODEL = "checkpoints", "model"


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where the parameters of a model come from."""

    path: str | Path
    """A model's folder, a checkpoint's folder, or a repository id on the Hub."""
    step: int | None = None
    """The training step they are of, where that is known."""
    weights: str | None = None
    """The file of a checkpoint that holds them; None if it is no checkpoint."""
    run: Path | None = None
    """The training run that the path was that of."""

    def load(self, strict: bool = True, **hub: Unpack[HubOptions]) -> Any:
        """The model, in evaluation mode on the CPU; errors as for `load_model`."""
        if self.weights is None:
            return load_saved(self.path, strict, **hub)
        folder = Path(self.path)
        state = read_json(folder / STATE_NAME)["state"]
        config = config_of_run(state["fixed"], str(folder / STATE_NAME))
        model = open_saved(config, folder / self.weights, strict)
        model.mark_initialized()
        return model


def load_model(
    path: str | Path,
    device: str | torch.device | None = None,
    *,
    map_location: str | torch.device | None = None,
    strict: bool = True,
    **hub: Unpack[HubOptions],
) -> Any:
    """Load a trained model of whatever class, in evaluation mode.

    Args:
        path: A model's folder, the name of a trained model that comes with the package
            (`vflow.list_trained_models`), a repository id on the Hugging Face Hub, a training run's
            folder, or a checkpoint's. Of a run the newest parameters are taken: those of the
            finished model/, or the averaged ones of the newest intact checkpoint where that is
            newer. A checkpoint gives its averaged parameters; its file model.safetensors, named as
            the path, those that are not averaged.
        device: Where to load to; by default the CPU.
        map_location: `device`, by the name that the Hub's models take it under.
        strict: As for `VFlow.from_pretrained`.
        hub: `revision`, `token`, `cache_dir`, `local_files_only` and `force_download`, likewise.

    Raises:
        FileNotFoundError: If there is no such folder or repository, or a file is missing.
        ValueError: If a file is damaged, a pickle, or of an unknown class.
    """
    device = choose_device(device, map_location)
    return find_model(path).load(strict, **hub).to(device)


def load_image_model(
    path: str | Path | Source, device: str | torch.device = "cpu", say: bool = False
) -> ImageFlow:
    """Open an image model, in evaluation mode.

    Args:
        path: As `vflow.load_model` takes it, or what `find_model` found there.
        device: Where to load to.
        say: Whether to tell on stderr which of a training run's parameters are taken.

    Raises:
        FileNotFoundError: If there is no such folder or repository, or a file is missing.
        ValueError: If a file is damaged or a pickle, or it is no image model.
    """
    source = path if isinstance(path, Source) else find_model(path)
    if say and source.run is not None:
        step = "" if source.step is None else f", of step {source.step}"
        print(f"vflow: model: {source.path}{step}", file=sys.stderr)
    model = source.load()
    if not isinstance(model, ImageFlow):
        raise ValueError(
            f"model must be one of images, but {source.path} is a {type(model).__name__}"
        )
    return model.to(device)


def find_model(path: str | Path) -> Source:
    """Where the parameters are that a path means, as `load_model` says.

    Raises:
        FileNotFoundError: If it is a folder without any.
        ValueError: If it is a file that holds none, or all checkpoints are damaged.
    """
    folder = Path(path).expanduser()
    if folder.is_file():
        return _of_file(folder)
    if not folder.is_dir():
        return Source(path=path)
    if (folder / STATE_NAME).is_file():
        return _of_checkpoint(folder)
    if (folder / WEIGHTS_NAME).is_file():
        return Source(path=folder)
    if is_run(folder):
        return _of_run(folder)
    if folder.name == CHECKPOINTS and is_run(folder.parent):
        return _of_checkpoints(folder, folder.parent)
    raise FileNotFoundError(_nothing_in(folder))


def is_run(folder: Path) -> bool:
    """Whether a folder is that of a training run, however far it has come."""
    if (folder / CHECKPOINTS).is_dir() or (folder / "metrics.jsonl").is_file():
        return True
    if any((folder / MODEL / name).is_file() for name in (CONFIG_NAME, WEIGHTS_NAME)):
        return True
    try:
        return "preset" in read_json(folder / CONFIG_NAME)
    except (OSError, ValueError, TypeError):
        return False


def folder_of_results(path: str | Path) -> Path:
    """The folder for what is found out about a model: where it stays when the model is replaced.

    That is the training run's for a checkpoint or a finished model, and one of the model's name
    here for a model on the Hub.
    """
    folder = Path(path).expanduser()
    if folder.is_file():
        folder = folder.parent
    if not folder.is_dir():
        return Path(re.sub(r"[^\w.-]+", "-", str(path)).strip("-"))
    if (folder / STATE_NAME).is_file():
        folder = folder.parent
    within = folder.name in (CHECKPOINTS, MODEL)
    return folder.parent if within and (folder.parent / CHECKPOINTS).is_dir() else folder


def _of_run(folder: Path) -> Source:
    model, checkpoints = folder / MODEL, folder / CHECKPOINTS
    if not any((model / name).is_file() for name in (CONFIG_NAME, WEIGHTS_NAME)):
        return _of_checkpoints(checkpoints, folder)
    finished = Source(path=model, step=_step_of(model, checkpoints), run=folder)
    try:
        newest = _of_checkpoints(checkpoints, folder)
    except (OSError, ValueError):  # removed, or each of them is damaged, and named on stderr
        return finished
    assert newest.step is not None
    return finished if finished.step is not None and finished.step >= newest.step else newest


def _step_of(model: Path, checkpoints: Path) -> int | None:
    """The step of a finished model: that of the checkpoint whose averaged parameters it has.

    It is written after the checkpoint of its step, so that without one it is older than all.
    """
    if not (model / WEIGHTS_NAME).is_file():
        return None
    digest = hashlib.sha256((model / WEIGHTS_NAME).read_bytes()).hexdigest()
    for step, path in reversed(list_steps(checkpoints).items()):
        try:
            if read_json(path / STATE_NAME)["files"][AVERAGED]["sha256"] == digest:
                return step
        except (OSError, ValueError, TypeError, KeyError):
            continue
    return None


def _of_checkpoints(folder: Path, run: Path) -> Source:
    checkpoint = newest_checkpoint(folder)
    if checkpoint is None:
        raise FileNotFoundError(
            f"{run} must hold a finished model or a checkpoint, but the run has made none yet"
        )
    return Source(path=checkpoint.path, step=checkpoint.step, weights=AVERAGED, run=run)


def _of_checkpoint(folder: Path, weights: str = AVERAGED) -> Source:
    checkpoint = open_checkpoint(folder.absolute())  # which knows it by its name
    return Source(path=folder, step=checkpoint.step, weights=weights)


def _of_file(path: Path) -> Source:
    folder = path.parent
    if (folder / STATE_NAME).is_file() and path.name in (AVERAGED, TRAINED, STATE_NAME):
        return _of_checkpoint(folder, TRAINED if path.name == TRAINED else AVERAGED)
    names = (CONFIG_NAME, WEIGHTS_NAME)
    if path.name in names and all((folder / name).is_file() for name in names):
        return Source(path=folder)
    if path.suffix == ".safetensors":
        raise ValueError(
            f"{RULE}, but {path} is a file, and not a {WEIGHTS_NAME} beside its {CONFIG_NAME}"
        )
    require_no_file(path)
    raise AssertionError("it is a file")


def _nothing_in(folder: Path) -> str:
    """What to say of a folder that holds no parameters."""
    entries = sorted(folder.iterdir())
    if not entries:
        return f"{folder} must hold a model or a training run, but it is empty"
    missing = WEIGHTS_NAME if (folder / CONFIG_NAME).is_file() else CONFIG_NAME
    text = f"{folder} must hold a {missing}, but there is none"
    within = [e for e in entries if e.is_dir() and ((e / WEIGHTS_NAME).is_file() or is_run(e))]
    pickles = [entry for entry in entries if entry.suffix in PICKLE_SUFFIXES]
    if within:
        return f"{text} (did you mean {within[0]}?)"
    if pickles:
        return f"{text}; {pickles[0].name} is a pickle, which is never opened"
    return text
