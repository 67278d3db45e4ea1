"""The run folder: who may write to it, and what is where."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from vflow.io.checkpoint import TEMPORARY_PREFIX, Checkpoint, newest_checkpoint, remove_leftovers
from vflow.runtime.files import read_json, sync_file, sync_folder, write_json
from vflow.runtime.locks import try_lock

if TYPE_CHECKING:
    from vflow.models import ImageFlow

CONFIG_NAME = "config.json"
LOCK_NAME = ".lock"
NAMES = (CONFIG_NAME, "metrics.jsonl", "tensorboard", "checkpoints", "samples", "model")
"""What a run writes. What else is in its folder, as the log of a job, is none of its business."""
CONFIG_FIELDS = ("preset", "data", "optim")
"""Some of what is in a run's config.json and in no other."""


class RunFolder:
    """A run's folder.

        config.json  metrics.jsonl  tensorboard/  checkpoints/  samples/  model/

    Raises:
        OSError: If the path is no folder, or cannot be written to.
        ValueError: If it holds no run, but something that a run would write over.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.model = path / "model"
        self._lock: TextIO | None = None
        existing = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
        if not existing.is_dir():
            raise NotADirectoryError(f"out must be a folder, but {existing} is a file")
        if not os.access(existing, os.W_OK | os.X_OK):
            raise PermissionError(f"out must be writable, but {existing} is not")
        self._holds_run = _is_config(path / CONFIG_NAME)
        in_the_way = [name for name in NAMES if (path / name).exists()]
        if in_the_way and not self._holds_run:
            raise ValueError(
                f"out must be a new folder or that of a run, but {path} holds {in_the_way[0]} and "
                f"no {CONFIG_NAME} of a run"
            )

    def sample_path(self, step: int) -> Path:
        """Where the samples of a step go."""
        return self.path / "samples" / f"step-{step:08d}.png"

    def newest_checkpoint(self) -> Checkpoint | None:
        """The checkpoint to go on from, None for a new run.

        Raises:
            ValueError: If every checkpoint is damaged, or a finished run's have been removed.
        """
        checkpoint = newest_checkpoint(self.checkpoints)
        if checkpoint is None and self.model.exists():
            raise ValueError(
                f"out must be a new folder or a run with checkpoints, but {self.path} holds a "
                "finished model without any"
            )
        return checkpoint

    def lock(self) -> None:
        """Make the folder if need be, and be the only process that writes to it.

        The system frees the lock when the process ends, however it ends.

        Raises:
            OSError: If it cannot be made.
            ValueError: If another process is writing to it.
        """
        if self._lock is not None:
            return
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = try_lock(self.path / LOCK_NAME)
        if self._lock is None:
            raise ValueError(
                f"out must be a folder no other run is using, but {self.path} is in use"
            )
        if self._holds_run:
            for folder in (self.path, self.checkpoints, self.path / "samples"):
                remove_leftovers(folder)

    def close(self) -> None:
        """Free the lock."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def write_config(self, config: dict[str, Any]) -> None:
        """Write config.json."""
        write_json(self.path / CONFIG_NAME, config)

    def write_model(self, model: ImageFlow, describe: Callable[[Path], None]) -> None:
        """Write model/, in the place of an earlier one.

        Args:
            model: The model.
            describe: Writes what else belongs into a folder: the model's card and its pictures.
        """
        temporary = self.path / f"{TEMPORARY_PREFIX}model"
        old = self.path / f"{TEMPORARY_PREFIX}old-model"
        for folder in (temporary, old):
            shutil.rmtree(folder, ignore_errors=True)
        temporary.mkdir()
        describe(temporary)  # before, or the model would be given the card of one of unknown origin
        model.save_pretrained(temporary)
        for file in temporary.iterdir():
            sync_file(file)
        sync_folder(temporary)
        if self.model.exists():
            self.model.rename(old)
        temporary.rename(self.model)
        sync_folder(self.path)
        shutil.rmtree(old, ignore_errors=True)


def _is_config(path: Path) -> bool:
    """Whether a file is the config.json of a run; a model has one, too."""
    if not path.is_file():
        return False
    try:
        config = read_json(path)
    except ValueError:
        return False
    return isinstance(config, dict) and all(name in config for name in CONFIG_FIELDS)
