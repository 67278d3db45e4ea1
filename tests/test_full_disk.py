"""A disk that takes no more: every command names the file, and leaves no half of one."""

from __future__ import annotations

import contextlib
import errno
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import vflow
from vflow.cli import main
from vflow.runtime.files import atomic_path


@contextlib.contextmanager
def room_for(size: int) -> Iterator[None]:
    """Let no file grow beyond `size` bytes within: as near to a full disk as a test can come."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of 8x8 images in model/, and images in images.npy."""
    folder = tmp_path_factory.mktemp("full")
    torch.manual_seed(0)
    images = torch.randint(0, 256, (60, 3, 8, 8), dtype=torch.uint8)
    np.save(folder / "images.npy", images.permute(0, 2, 3, 1).numpy())
    model = vflow.create_model("vflow-tiny", filters=4, components=2, image_size=8)
    model.initialize(images)
    model.save_pretrained(folder / "model")
    return folder


EVALUATE = "evaluate {folder}/model --data npy:{folder}/images.npy --out {out}/results.json"
SAMPLE = "sample {folder}/model -n 9 --out {out}/grid.png"
TOY = "toy --dims 2 --steps 1 --iterations 2 --seeds 1 --hidden 4 --points 5 --out {out}"


@pytest.mark.parametrize(
    ("command", "size", "name"),
    [
        (EVALUATE, 100, "results.images.jsonl"),
        (EVALUATE, 400, "results.images.jsonl"),
        (EVALUATE, 1000, "results.json"),
        (SAMPLE, 100, "grid.npz"),
        (SAMPLE, 2000, "grid.png"),
        (TOY, 100, "experiment.json"),
        (TOY, 600, "state.safetensors"),
        (TOY, 8000, "density.png"),
    ],
    ids=lambda value: value.split()[0] if isinstance(value, str) else value,
)
def test_a_command_names_the_file(
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    command: str,
    size: int,
    name: str,
) -> None:
    arguments = command.format(folder=folder, out=tmp_path).split()
    torch.manual_seed(0)
    with room_for(size), pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 1
    error = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert len(error) == 1, error
    assert error[0].startswith("vflow: error: ")
    assert f"{name}" in error[0]
    assert not list(tmp_path.rglob(".tmp-*"))
    assert not list(tmp_path.rglob(name)) or name.endswith(".jsonl")
    main(arguments)  # with room again, the same command goes through
    assert list(tmp_path.rglob(name)) or name == "state.safetensors"


@pytest.mark.parametrize(
    "fail",
    [
        lambda path: path.write_bytes(bytes(2000)),
        lambda path: np.savez(path, bytes(2000)),
        lambda path: exec_error(errno.ENOSPC),
        lambda path: exec_error(errno.EDQUOT),
    ],
)
def test_a_file_that_is_written_whole_or_not(tmp_path: Path, fail: Callable[[Path], Any]) -> None:
    path = tmp_path / "a.npz"

    def write() -> None:
        with atomic_path(path) as temporary:
            fail(temporary)

    with room_for(1000), pytest.raises(OSError, match=r"a\.npz'$") as caught:
        write()
    assert caught.value.filename == str(path)
    assert not list(tmp_path.iterdir())


def exec_error(number: int) -> None:
    raise OSError(number, "the disk is full")


def test_other_errors_are_left_as_they_are(tmp_path: Path) -> None:
    def write(error: OSError) -> None:
        with atomic_path(tmp_path / "a.txt"):
            raise error

    for error in (OSError("no number"), FileNotFoundError(errno.ENOENT, "gone", "other.txt")):
        with pytest.raises(OSError) as caught:  # noqa: PT011
            write(error)
        assert caught.value is error


def test_a_model_is_saved_whole_or_not(folder: Path, tmp_path: Path) -> None:
    model = vflow.load_model(folder / "model")
    with room_for(1000), pytest.raises(OSError, match=r"model\.safetensors could not be written"):
        model.save_pretrained(tmp_path / "copy")
    assert not list((tmp_path / "copy").iterdir())
