"""Checkpoints: folders that are either whole or absent, and that know when they are damaged.

    CHECKPOINTS/step-00001234/
        model.safetensors  ema.safetensors  optimizer.safetensors
        state.json          {"state": ..., "files": {name: {"bytes", "sha256"}}, "sha256": ...}

The digest at the end of state.json is that of the rest of it. Nothing is ever pickled.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from vflow.io.weights import save_tensors
from vflow.runtime.files import read_json, set_usual_mode, sync_file, sync_folder

STATE_NAME = "state.json"
TEMPORARY_PREFIX = ".tmp-"
_STEP_NAME = re.compile(r"step-(\d{8,})")
_PICKLE_STARTS = (b"\x80", b"PK\x03\x04")  # pickle's own, and the zip around it by torch.save


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A checkpoint found intact."""

    path: Path
    step: int
    state: dict[str, Any]

    def tensors(self, name: str) -> dict[str, Tensor]:
        """The tensors of NAME.safetensors, on the CPU."""
        return load_file(self.path / f"{name}.safetensors")


def save_checkpoint(
    folder: Path,
    step: int,
    tensors: Mapping[str, Mapping[str, Tensor]],
    state: Mapping[str, Any],
    keep: int,
) -> Path:
    """Write the checkpoint of a step, then remove all but the newest `keep`.

    It is written beside its place, flushed to the disk, and renamed.

    Args:
        folder: Where the run's checkpoints are.
        step: Steps taken.
        tensors: Tensors by name, by the stem of the file they go to.
        state: What else it takes to go on; JSON.
        keep: Checkpoints left afterwards. Any of a later step is damaged, or it would have been
            gone on from, and goes first.

    Returns:
        The checkpoint's folder.

    Raises:
        OSError: If the disk does not take it; the older checkpoints are then still there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    final = folder / f"step-{step:08d}"
    temporary = folder / f"{TEMPORARY_PREFIX}{final.name}"
    _remove(temporary)
    temporary.mkdir()
    try:
        files = {}
        for name, group in tensors.items():
            path = temporary / f"{name}.safetensors"
            save_tensors(group, path)
            set_usual_mode(path)
            files[path.name] = {"bytes": path.stat().st_size, "sha256": _file_digest(path)}
        content = {"state": {"step": step, **state}, "files": files}
        path = temporary / STATE_NAME
        path.write_text(json.dumps({**content, "sha256": _json_digest(content)}, indent=1) + "\n")
        for path in temporary.iterdir():
            sync_file(path)
        sync_folder(temporary)
        if final.exists():
            _discard(final)
        temporary.rename(final)
        sync_folder(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    steps = list_steps(folder)
    older = [number for number in steps if number <= step]
    for number in steps:
        if number > step or number not in older[-keep:]:
            _discard(steps[number])
    return final


def newest_checkpoint(folder: Path) -> Checkpoint | None:
    """The newest intact checkpoint, or None if there are none at all.

    A damaged one is named on stderr and passed over.

    Raises:
        ValueError: If there are checkpoints, but none is intact.
    """
    steps = list_steps(folder)
    for number in reversed(steps):
        try:
            return open_checkpoint(steps[number])
        except (ValueError, OSError) as error:
            reason = f"checkpoint {steps[number]} is passed over: {' '.join(str(error).split())}"
            print(f"vflow: warning: {reason}", file=sys.stderr)
    if steps:
        raise ValueError(
            f"{folder} must hold an intact checkpoint, but each of its {len(steps)} is damaged; "
            "take another run folder to start anew"
        )
    return None


def open_checkpoint(path: Path) -> Checkpoint:
    """Check every byte of a checkpoint.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a file is damaged or a pickle.
    """
    content = read_json(path / STATE_NAME)
    if not isinstance(content, dict) or content.pop("sha256", None) != _json_digest(content):
        raise ValueError(f"{path / STATE_NAME} must match its own digest, but is damaged")
    for name, expected in content["files"].items():
        file = path / name
        if not file.is_file():
            raise FileNotFoundError(f"{file} must be a file, but there is none")
        with open(file, "rb") as stream:
            start = stream.read(9)
            # Eight bytes of length, of which the first may be a pickle's too, then JSON.
            if start.startswith(_PICKLE_STARTS) and start[8:] != b"{":
                raise ValueError(f"{file} must be a safetensors file, got a pickle")
        size = file.stat().st_size
        if size != expected["bytes"]:
            raise ValueError(f"{file} must have {expected['bytes']} bytes, got {size}")
        if _file_digest(file) != expected["sha256"]:
            raise ValueError(f"{file} must have the digest in {STATE_NAME}, but is damaged")
    state = content["state"]
    if path.name != f"step-{state['step']:08d}":
        raise ValueError(f"{path} must be named after its step, which is {state['step']}")
    return Checkpoint(path=path, step=state["step"], state=state)


def list_steps(folder: Path) -> dict[int, Path]:
    """The checkpoints in a folder by their steps, oldest first, intact or not."""
    if not folder.is_dir():
        return {}
    named = {path: _STEP_NAME.fullmatch(path.name) for path in folder.iterdir()}
    return dict(sorted((int(match[1]), path) for path, match in named.items() if match))


def remove_leftovers(folder: Path) -> None:
    """Remove what a crash left half written or half removed."""
    if folder.is_dir():
        for path in folder.glob(f"{TEMPORARY_PREFIX}*"):
            _remove(path)


def _discard(folder: Path) -> None:
    # Renamed first: were the removal cut short, the rest must not pass for a checkpoint.
    doomed = folder.with_name(f"{TEMPORARY_PREFIX}old-{folder.name}")
    _remove(doomed)
    folder.rename(doomed)
    _remove(doomed)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _file_digest(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _json_digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
